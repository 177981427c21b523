-- Lighthouses, the coasts they guard and the keepers who live in them.

CREATE TABLE coast (
  coast_id INTEGER PRIMARY KEY,
  name TEXT,
  sea TEXT,
  length INTEGER
);

CREATE TABLE lighthouse (
  lighthouse_id INTEGER PRIMARY KEY,
  name TEXT,
  color TEXT,
  height INTEGER,
  year_built INTEGER,
  coast_id INTEGER,
  FOREIGN KEY (coast_id) REFERENCES coast (coast_id)
);

CREATE TABLE keeper (
  keeper_id INTEGER PRIMARY KEY,
  name TEXT,
  rank TEXT,
  age INTEGER,
  salary INTEGER,
  lighthouse_id INTEGER,
  FOREIGN KEY (lighthouse_id) REFERENCES lighthouse (lighthouse_id)
);

INSERT INTO coast (coast_id, name, sea, length) VALUES
  (1, 'Amber Coast', 'North Sea', 420),
  (2, 'Fog Bank', 'Baltic Sea', 180),
  (3, 'Gull Shore', 'North Sea', 260),
  (4, 'Iron Cliffs', 'Irish Sea', 150),
  (5, 'Silver Bay', 'Baltic Sea', 310),
  (6, 'Thorn Cape', 'Irish Sea', 95),
  (7, 'Whale Sound', 'North Sea', 530),
  (8, 'Quiet Strand', 'Baltic Sea', 75);

INSERT INTO lighthouse (lighthouse_id, name, color, height, year_built, coast_id) VALUES
  (1, 'Black Rock', 'red', 29, 1840, 4),
  (2, 'Candle Point', 'black', 42, 1820, 2),
  (3, 'Dragon Tooth', 'white', 56, 1940, 4),
  (4, 'East Skerry', 'grey', 54, 1800, 2),
  (5, 'Falcon Head', 'black', 16, 1850, 1),
  (6, 'Grey Nun', 'grey', 15, 1880, 3),
  (7, 'Heron Ness', 'red', 58, 1830, 2),
  (8, 'Kelp Island', 'grey', 62, 1860, 3),
  (9, 'Long Spit', 'white', 31, 1910, 2),
  (10, 'Mermaid Rock', 'red', 53, 1910, 4),
  (11, 'Old Tom', 'red', 48, 1940, 7),
  (12, 'Pilot Hill', 'white', 40, 1810, 3),
  (13, 'Raven Point', 'red', 30, 1840, 2),
  (14, 'Seal Island', 'black', 36, 1930, 2),
  (15, 'Tern Rock', 'white', 34, 1910, 5),
  (16, 'Wolf Head', 'white', 13, 1870, 6),
  (17, 'Storm Point', 'red', 41, 1830, 2),
  (18, 'Lantern Hill', 'white', 50, 1920, 1);

INSERT INTO keeper (keeper_id, name, rank, age, salary, lighthouse_id) VALUES
  (1, 'Edda Frost', 'assistant', 26, 3800, 9),
  (2, 'Rafe Loner', 'trainee', 30, 2500, 8),
  (3, 'Gus Ferro', 'assistant', 28, 3750, 9),
  (4, 'Sofia Leal', 'chief', 42, 2400, 16),
  (5, 'Selma Aas', 'senior', 38, 2550, 2),
  (6, 'Xenia Kostas', 'assistant', 52, 3050, 11),
  (7, 'Ada Brandt', 'senior', 66, 4150, 4),
  (8, 'Quinn Abbott', 'senior', 32, 4050, 3),
  (9, 'Vera Lind', 'chief', 54, 3450, 10),
  (10, 'Yusuf Aydin', 'senior', 22, 3350, 2),
  (11, 'Ida Moen', 'senior', 34, 2900, 12),
  (12, 'Gemma Tate', 'assistant', 54, 1850, 1),
  (13, 'Wanda Pike', 'senior', 44, 3650, 15),
  (14, 'Ivo Jansen', 'assistant', 30, 2650, 9),
  (15, 'Hana Ito', 'senior', 66, 3300, 8),
  (16, 'Kira Novak', 'assistant', 56, 2600, 11),
  (17, 'Nils Berg', 'trainee', 22, 3850, 2),
  (18, 'Henk Visser', 'trainee', 54, 3700, 14),
  (19, 'Marek Duda', 'senior', 40, 3900, 11),
  (20, 'Bo Lindgren', 'chief', 62, 3950, 8),
  (21, 'Clea Marsh', 'assistant', 26, 2950, 7),
  (22, 'Nora Quinn', 'senior', 66, 2350, 3),
  (23, 'Wim de Boer', 'assistant', 38, 3150, 2),
  (24, 'Rosa Vidal', 'trainee', 54, 1900, 18),
  (25, 'Emil Krog', 'assistant', 44, 2150, 9),
  (26, 'Fay Dunmore', 'assistant', 32, 1950, 7),
  (27, 'Viggo Lund', 'senior', 44, 3000, 1),
  (28, 'Uma Rao', 'chief', 36, 4000, 5),
  (29, 'Dora Weiss', 'trainee', 56, 2100, 8),
  (30, 'Tomas Ruiz', 'chief', 56, 2300, 8),
  (31, 'Zita Balog', 'senior', 54, 2800, 4),
  (32, 'Leo Farkas', 'assistant', 42, 2850, 7);
