-- Board games, their publishers, and who played what with which score.

CREATE TABLE publisher (
  publisher_id INTEGER PRIMARY KEY,
  name TEXT,
  country TEXT,
  founded INTEGER
);

CREATE TABLE game (
  game_id INTEGER PRIMARY KEY,
  title TEXT,
  genre TEXT,
  minutes INTEGER,
  price INTEGER,
  publisher_id INTEGER,
  FOREIGN KEY (publisher_id) REFERENCES publisher (publisher_id)
);

CREATE TABLE player (
  player_id INTEGER PRIMARY KEY,
  name TEXT,
  city TEXT,
  age INTEGER
);

CREATE TABLE play (
  play_id INTEGER PRIMARY KEY,
  player_id INTEGER,
  game_id INTEGER,
  score INTEGER,
  FOREIGN KEY (player_id) REFERENCES player (player_id),
  FOREIGN KEY (game_id) REFERENCES game (game_id)
);

INSERT INTO publisher (publisher_id, name, country, founded) VALUES
  (1, 'Anvil Games', 'Germany', 1994),
  (2, 'Blue Meeple', 'France', 2006),
  (3, 'Castle Die', 'Germany', 2011),
  (4, 'Dodo Press', 'Italy', 1987),
  (5, 'Echo Table', 'Japan', 2015),
  (6, 'Fable Box', 'France', 1999),
  (7, 'Gnome House', 'Italy', 2019),
  (8, 'Hex and Co', 'Germany', 2003);

INSERT INTO game (game_id, title, genre, minutes, price, publisher_id) VALUES
  (1, 'Arctic Mail', 'family', 135, 70, 1),
  (2, 'Bazaar Bluff', 'card', 75, 75, 1),
  (3, 'Canal Kings', 'strategy', 75, 10, 1),
  (4, 'Dragon Tax', 'party', 60, 64, 5),
  (5, 'Echo Mines', 'strategy', 30, 11, 6),
  (6, 'Farm Feud', 'family', 135, 37, 1),
  (7, 'Ghost Hotel', 'card', 15, 56, 1),
  (8, 'Harbor Lords', 'party', 45, 24, 1),
  (9, 'Ink and Quill', 'strategy', 75, 46, 4),
  (10, 'Jade Path', 'strategy', 60, 66, 1),
  (11, 'Lost Postman', 'party', 60, 29, 1),
  (12, 'Moon Orchard', 'strategy', 45, 60, 2),
  (13, 'Night Train', 'party', 90, 23, 3),
  (14, 'Oasis Run', 'card', 60, 35, 2),
  (15, 'Paper Castles', 'party', 105, 49, 1),
  (16, 'Robot Bakery', 'strategy', 90, 47, 1),
  (17, 'Sky Ferries', 'family', 150, 14, 8),
  (18, 'Tower of Tea', 'party', 60, 67, 2),
  (19, 'Undersea', 'party', 105, 20, 3),
  (20, 'Wizard Court', 'strategy', 135, 19, 2);

INSERT INTO player (player_id, name, city, age) VALUES
  (1, 'Ursula Kern', 'Porto', 43),
  (2, 'Olga Petrova', 'Lyon', 22),
  (3, 'Rosa Vidal', 'Graz', 48),
  (4, 'Clea Marsh', 'Lyon', 52),
  (5, 'Anton Beck', 'Porto', 57),
  (6, 'Orla Keane', 'Turin', 55),
  (7, 'Rafe Loner', 'Lyon', 16),
  (8, 'Zora Milic', 'Graz', 36),
  (9, 'Jada Cole', 'Porto', 51),
  (10, 'Hugo Salas', 'Lyon', 34),
  (11, 'Dora Weiss', 'Turin', 47),
  (12, 'Dina Amari', 'Porto', 23),
  (13, 'Elif Demir', 'Lyon', 42),
  (14, 'Cara Quist', 'Graz', 56),
  (15, 'Fay Dunmore', 'Porto', 24),
  (16, 'Ines Prado', 'Porto', 60);

INSERT INTO play (play_id, player_id, game_id, score) VALUES
  (1, 1, 1, 76),
  (2, 1, 6, 54),
  (3, 1, 9, 22),
  (4, 1, 10, 83),
  (5, 1, 15, 68),
  (6, 1, 17, 79),
  (7, 2, 5, 36),
  (8, 2, 7, 70),
  (9, 2, 8, 75),
  (10, 2, 10, 12),
  (11, 2, 16, 91),
  (12, 3, 5, 57),
  (13, 3, 8, 76),
  (14, 3, 9, 53),
  (15, 3, 10, 62),
  (16, 3, 12, 68),
  (17, 3, 13, 36),
  (18, 4, 6, 97),
  (19, 4, 9, 33),
  (20, 4, 10, 60),
  (21, 4, 13, 75),
  (22, 4, 15, 25),
  (23, 4, 20, 88),
  (24, 5, 8, 55),
  (25, 5, 13, 91),
  (26, 5, 15, 17),
  (27, 5, 16, 42),
  (28, 5, 17, 45),
  (29, 7, 7, 58),
  (30, 7, 10, 61),
  (31, 7, 17, 17),
  (32, 7, 20, 11),
  (33, 8, 6, 19),
  (34, 8, 9, 63),
  (35, 8, 16, 63),
  (36, 8, 17, 90),
  (37, 8, 19, 99),
  (38, 8, 20, 96),
  (39, 9, 1, 55),
  (40, 9, 5, 84),
  (41, 9, 16, 43),
  (42, 9, 20, 23),
  (43, 10, 8, 38),
  (44, 11, 10, 48),
  (45, 12, 12, 61),
  (46, 14, 6, 77),
  (47, 15, 6, 38),
  (48, 16, 9, 60);
