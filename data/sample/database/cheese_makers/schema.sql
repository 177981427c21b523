-- Dairies, the cheeses they make and the points those cheeses win at contests.

CREATE TABLE dairy (
  dairy_id INTEGER PRIMARY KEY,
  name TEXT,
  county TEXT,
  cows INTEGER,
  founded INTEGER
);

CREATE TABLE cheese (
  cheese_id INTEGER PRIMARY KEY,
  name TEXT,
  milk TEXT,
  months_aged INTEGER,
  price INTEGER,
  dairy_id INTEGER,
  FOREIGN KEY (dairy_id) REFERENCES dairy (dairy_id)
);

CREATE TABLE award (
  award_id INTEGER PRIMARY KEY,
  cheese_id INTEGER,
  contest TEXT,
  year INTEGER,
  points INTEGER,
  FOREIGN KEY (cheese_id) REFERENCES cheese (cheese_id)
);

INSERT INTO dairy (dairy_id, name, county, cows, founded) VALUES
  (1, 'Alder Farm', 'Easton', 180, 2000),
  (2, 'Blue Barn', 'Norland', 60, 2005),
  (3, 'Clover Creek', 'Westmark', 190, 1900),
  (4, 'Dusty Mill', 'Westmark', 65, 1905),
  (5, 'Elm Meadow', 'Norland', 185, 2010),
  (6, 'Fern Valley', 'Easton', 240, 1955),
  (7, 'Golden Udder', 'Easton', 25, 1975),
  (8, 'Hill Top', 'Norland', 160, 1895),
  (9, 'Kettle Brook', 'Norland', 75, 1965),
  (10, 'Moss Lane', 'Easton', 20, 1885);

INSERT INTO cheese (cheese_id, name, milk, months_aged, price, dairy_id) VALUES
  (1, 'Ashen Moon', 'buffalo', 14, 56, 10),
  (2, 'Brindle', 'cow', 4, 15, 5),
  (3, 'Cobble', 'goat', 13, 34, 6),
  (4, 'Dew Drop', 'goat', 15, 40, 3),
  (5, 'Ember', 'cow', 11, 19, 3),
  (6, 'Foxglove', 'goat', 3, 51, 3),
  (7, 'Goat Cloud', 'goat', 22, 23, 5),
  (8, 'Hazel Rind', 'cow', 8, 54, 1),
  (9, 'Ivory Wheel', 'goat', 14, 36, 8),
  (10, 'Juniper', 'cow', 3, 41, 3),
  (11, 'Kings Crumb', 'cow', 7, 58, 1),
  (12, 'Little Smoke', 'cow', 22, 30, 1),
  (13, 'Marble Arch', 'buffalo', 10, 35, 2),
  (14, 'Nettle Wrap', 'cow', 4, 21, 7),
  (15, 'Old Miller', 'buffalo', 5, 31, 6),
  (16, 'Pepper Log', 'sheep', 23, 29, 1),
  (17, 'Quarry Blue', 'sheep', 21, 14, 1),
  (18, 'Rosebud', 'cow', 22, 32, 2),
  (19, 'Salt Maiden', 'sheep', 12, 10, 1),
  (20, 'Thistle', 'cow', 5, 53, 6),
  (21, 'Velvet Rind', 'goat', 9, 26, 2),
  (22, 'White Bell', 'sheep', 5, 52, 3),
  (23, 'Winter Log', 'goat', 15, 37, 6),
  (24, 'Yellow Moon', 'buffalo', 8, 44, 1);

INSERT INTO award (award_id, cheese_id, contest, year, points) VALUES
  (1, 10, 'Harvest Cup', 2021, 66),
  (2, 1, 'Spring Fair', 2016, 84),
  (3, 4, 'Harvest Cup', 2022, 88),
  (4, 6, 'Spring Fair', 2019, 95),
  (5, 9, 'Spring Fair', 2018, 63),
  (6, 6, 'Golden Rind', 2018, 61),
  (7, 11, 'Golden Rind', 2015, 94),
  (8, 13, 'Spring Fair', 2016, 75),
  (9, 10, 'Spring Fair', 2019, 91),
  (10, 17, 'Golden Rind', 2016, 76),
  (11, 2, 'Spring Fair', 2017, 60),
  (12, 14, 'Spring Fair', 2021, 89),
  (13, 23, 'Golden Rind', 2015, 64),
  (14, 11, 'Harvest Cup', 2021, 92),
  (15, 19, 'Spring Fair', 2015, 94),
  (16, 24, 'Golden Rind', 2019, 65),
  (17, 2, 'Golden Rind', 2019, 93),
  (18, 1, 'Spring Fair', 2018, 64),
  (19, 1, 'Harvest Cup', 2016, 90),
  (20, 5, 'Golden Rind', 2017, 76),
  (21, 11, 'Harvest Cup', 2021, 64),
  (22, 7, 'Harvest Cup', 2020, 76),
  (23, 2, 'Harvest Cup', 2022, 75),
  (24, 12, 'Harvest Cup', 2017, 73),
  (25, 18, 'Spring Fair', 2019, 74),
  (26, 4, 'Harvest Cup', 2017, 89),
  (27, 9, 'Spring Fair', 2015, 91),
  (28, 7, 'Spring Fair', 2021, 84),
  (29, 4, 'Spring Fair', 2017, 64),
  (30, 12, 'Spring Fair', 2015, 90),
  (31, 6, 'Spring Fair', 2018, 78),
  (32, 2, 'Golden Rind', 2016, 62),
  (33, 16, 'Spring Fair', 2015, 99),
  (34, 14, 'Harvest Cup', 2015, 72),
  (35, 5, 'Harvest Cup', 2017, 64),
  (36, 21, 'Harvest Cup', 2020, 98);
