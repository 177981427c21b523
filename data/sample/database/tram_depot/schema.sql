-- The depots of a town and the trams that stand in them at night.

CREATE TABLE depot (
  depot_id INTEGER PRIMARY KEY,
  name TEXT,
  district TEXT,
  tracks INTEGER,
  opened INTEGER
);

CREATE TABLE tram (
  tram_id INTEGER PRIMARY KEY,
  name TEXT,
  maker TEXT,
  seats INTEGER,
  speed INTEGER,
  depot_id INTEGER,
  FOREIGN KEY (depot_id) REFERENCES depot (depot_id)
);

INSERT INTO depot (depot_id, name, district, tracks, opened) VALUES
  (1, 'Albion Yard', 'North', 15, 1945),
  (2, 'Bridge End', 'South', 6, 1975),
  (3, 'Canal Gate', 'North', 18, 1905),
  (4, 'Dock Road', 'Centre', 5, 1900),
  (5, 'Elmwood', 'East', 4, 1955),
  (6, 'Foundry', 'South', 14, 1935),
  (7, 'Garden Cross', 'North', 21, 1925),
  (8, 'Harbour Sheds', 'East', 19, 1985);

INSERT INTO tram (tram_id, name, maker, seats, speed, depot_id) VALUES
  (1, 'Badger', 'Volta', 73, 45, 5),
  (2, 'Cricket', 'Volta', 80, 75, 4),
  (3, 'Dolphin', 'Tatran', 53, 55, 1),
  (4, 'Eagle', 'Skara', 65, 50, 1),
  (5, 'Ferret', 'Lenz', 39, 40, 8),
  (6, 'Gazelle', 'Skara', 81, 60, 1),
  (7, 'Hornet', 'Volta', 95, 80, 3),
  (8, 'Ibex', 'Volta', 35, 60, 3),
  (9, 'Jackal', 'Volta', 72, 60, 2),
  (10, 'Kestrel', 'Volta', 86, 65, 2),
  (11, 'Lark', 'Skara', 55, 40, 1),
  (12, 'Magpie', 'Skara', 87, 40, 3),
  (13, 'Newt', 'Tatran', 60, 55, 3),
  (14, 'Otter', 'Skara', 67, 50, 4),
  (15, 'Panther', 'Lenz', 92, 60, 3),
  (16, 'Quail', 'Lenz', 69, 70, 2),
  (17, 'Robin', 'Volta', 76, 70, 4),
  (18, 'Swallow', 'Volta', 38, 80, 1),
  (19, 'Tiger', 'Volta', 48, 65, 2),
  (20, 'Urchin', 'Tatran', 66, 40, 1),
  (21, 'Viper', 'Volta', 90, 50, 7),
  (22, 'Walrus', 'Volta', 57, 75, 3),
  (23, 'Wren', 'Tatran', 88, 55, 2),
  (24, 'Yak', 'Skara', 97, 40, 2),
  (25, 'Zebra', 'Volta', 56, 40, 2),
  (26, 'Beaver', 'Volta', 82, 40, 3),
  (27, 'Condor', 'Lenz', 68, 40, 4),
  (28, 'Dingo', 'Lenz', 41, 65, 2),
  (29, 'Egret', 'Skara', 98, 60, 4),
  (30, 'Falcon', 'Tatran', 96, 45, 2);
