-- The houses of a botanic garden, its plants, its gardeners and who looks after what.

CREATE TABLE house (
  house_id INTEGER PRIMARY KEY,
  name TEXT,
  climate TEXT,
  area INTEGER
);

CREATE TABLE plant (
  plant_id INTEGER PRIMARY KEY,
  name TEXT,
  origin TEXT,
  height INTEGER,
  house_id INTEGER,
  FOREIGN KEY (house_id) REFERENCES house (house_id)
);

CREATE TABLE gardener (
  gardener_id INTEGER PRIMARY KEY,
  name TEXT,
  shift TEXT,
  age INTEGER,
  wage INTEGER
);

CREATE TABLE care (
  care_id INTEGER PRIMARY KEY,
  gardener_id INTEGER,
  plant_id INTEGER,
  task TEXT,
  minutes INTEGER,
  FOREIGN KEY (gardener_id) REFERENCES gardener (gardener_id),
  FOREIGN KEY (plant_id) REFERENCES plant (plant_id)
);

INSERT INTO house (house_id, name, climate, area) VALUES
  (1, 'Alpine House', 'cold', 180),
  (2, 'Cactus Room', 'dry', 140),
  (3, 'Fern Grotto', 'humid', 90),
  (4, 'Lily Pond', 'humid', 260),
  (5, 'Orchid Hall', 'humid', 320),
  (6, 'Palm Court', 'warm', 540),
  (7, 'Desert Wing', 'dry', 230),
  (8, 'Citrus Walk', 'warm', 310);

INSERT INTO plant (plant_id, name, origin, height, house_id) VALUES
  (1, 'Agave', 'Peru', 215, 1),
  (2, 'Bird Lily', 'Mexico', 35, 2),
  (3, 'Candle Palm', 'Nepal', 220, 2),
  (4, 'Dwarf Pine', 'Mexico', 170, 1),
  (5, 'Elephant Fern', 'Kenya', 135, 3),
  (6, 'Fire Orchid', 'Kenya', 65, 3),
  (7, 'Giant Reed', 'Nepal', 150, 4),
  (8, 'Honey Cactus', 'Mexico', 60, 3),
  (9, 'Ice Gentian', 'Kenya', 125, 3),
  (10, 'Jade Vine', 'Peru', 85, 4),
  (11, 'King Protea', 'Kenya', 240, 3),
  (12, 'Lemon Tree', 'Borneo', 80, 3),
  (13, 'Moon Cactus', 'Kenya', 275, 4),
  (14, 'Nut Palm', 'Peru', 20, 4),
  (15, 'Old Man Aloe', 'Nepal', 90, 3),
  (16, 'Pitcher Vine', 'Peru', 120, 4),
  (17, 'Queen Lotus', 'Kenya', 25, 2),
  (18, 'Rock Rose', 'Peru', 185, 7),
  (19, 'Snow Lily', 'Borneo', 15, 4),
  (20, 'Tree Fern', 'Borneo', 290, 1),
  (21, 'Umbrella Palm', 'Peru', 230, 5),
  (22, 'Velvet Orchid', 'Kenya', 285, 1),
  (23, 'Water Clover', 'Peru', 160, 1),
  (24, 'Yucca', 'Kenya', 205, 6);

INSERT INTO gardener (gardener_id, name, shift, age, wage) VALUES
  (1, 'Henk Visser', 'evening', 36, 22),
  (2, 'Cyril Noel', 'weekend', 45, 26),
  (3, 'Yves Caron', 'morning', 63, 27),
  (4, 'Greta Holm', 'evening', 34, 15),
  (5, 'Niko Laine', 'evening', 28, 14),
  (6, 'Bela Toth', 'morning', 20, 20),
  (7, 'Vito Marino', 'morning', 64, 12),
  (8, 'Timo Raita', 'morning', 55, 30),
  (9, 'Maud Perrin', 'morning', 37, 23),
  (10, 'Nora Quinn', 'morning', 40, 28),
  (11, 'Ida Moen', 'evening', 29, 25),
  (12, 'Emil Krog', 'weekend', 35, 19),
  (13, 'Gus Ferro', 'weekend', 50, 18),
  (14, 'Marek Duda', 'evening', 25, 29);

INSERT INTO care (care_id, gardener_id, plant_id, task, minutes) VALUES
  (1, 1, 4, 'feeding', 30),
  (2, 1, 5, 'watering', 60),
  (3, 1, 11, 'pruning', 35),
  (4, 1, 14, 'pruning', 50),
  (5, 1, 16, 'pruning', 30),
  (6, 1, 17, 'pruning', 35),
  (7, 1, 20, 'potting', 45),
  (8, 2, 4, 'feeding', 5),
  (9, 2, 5, 'watering', 30),
  (10, 2, 10, 'watering', 45),
  (11, 2, 18, 'feeding', 15),
  (12, 3, 2, 'pruning', 55),
  (13, 3, 6, 'pruning', 30),
  (14, 3, 8, 'watering', 20),
  (15, 3, 14, 'pruning', 35),
  (16, 3, 17, 'feeding', 55),
  (17, 3, 20, 'watering', 55),
  (18, 3, 22, 'potting', 5),
  (19, 3, 23, 'watering', 30),
  (20, 5, 7, 'potting', 10),
  (21, 5, 10, 'pruning', 45),
  (22, 5, 14, 'pruning', 15),
  (23, 5, 22, 'pruning', 10),
  (24, 5, 23, 'potting', 30),
  (25, 6, 6, 'watering', 35),
  (26, 6, 7, 'potting', 20),
  (27, 6, 8, 'pruning', 45),
  (28, 6, 9, 'pruning', 55),
  (29, 6, 16, 'pruning', 5),
  (30, 6, 24, 'feeding', 20),
  (31, 7, 2, 'pruning', 15),
  (32, 7, 9, 'watering', 35),
  (33, 7, 10, 'potting', 35),
  (34, 7, 13, 'watering', 40),
  (35, 7, 15, 'feeding', 55),
  (36, 7, 16, 'potting', 5),
  (37, 7, 20, 'pruning', 5),
  (38, 8, 2, 'feeding', 5),
  (39, 8, 9, 'feeding', 55),
  (40, 10, 4, 'pruning', 50),
  (41, 10, 6, 'potting', 25),
  (42, 10, 9, 'pruning', 55),
  (43, 10, 10, 'watering', 50),
  (44, 10, 20, 'pruning', 25),
  (45, 11, 5, 'pruning', 55),
  (46, 12, 15, 'pruning', 45),
  (47, 13, 11, 'watering', 5),
  (48, 14, 16, 'pruning', 50);
