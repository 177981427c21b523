-- Telescopes, astronomers and the nights on which the ones used the others.

CREATE TABLE telescope (
  telescope_id INTEGER PRIMARY KEY,
  name TEXT,
  type TEXT,
  mirror INTEGER,
  year_installed INTEGER
);

CREATE TABLE astronomer (
  astronomer_id INTEGER PRIMARY KEY,
  name TEXT,
  institute TEXT,
  age INTEGER,
  papers INTEGER
);

CREATE TABLE observation (
  observation_id INTEGER PRIMARY KEY,
  astronomer_id INTEGER,
  telescope_id INTEGER,
  target TEXT,
  hours INTEGER,
  FOREIGN KEY (astronomer_id) REFERENCES astronomer (astronomer_id),
  FOREIGN KEY (telescope_id) REFERENCES telescope (telescope_id)
);

INSERT INTO telescope (telescope_id, name, type, mirror, year_installed) VALUES
  (1, 'Big Eye', 'refractor', 340, 1966),
  (2, 'Comet Hunter', 'refractor', 220, 1992),
  (3, 'Dusk Mirror', 'reflector', 360, 1962),
  (4, 'Far Seer', 'radio', 400, 1980),
  (5, 'Halo', 'refractor', 320, 1990),
  (6, 'Lynx', 'solar', 180, 2020),
  (7, 'Night Owl', 'reflector', 420, 1994),
  (8, 'Orbit One', 'solar', 280, 2012),
  (9, 'Polaris', 'reflector', 60, 1978),
  (10, 'Red Dwarf', 'radio', 200, 1986),
  (11, 'Star Sieve', 'refractor', 100, 1974),
  (12, 'Zenith', 'refractor', 120, 2000);

INSERT INTO astronomer (astronomer_id, name, institute, age, papers) VALUES
  (1, 'Yves Caron', 'Cassini', 52, 52),
  (2, 'Willa Stone', 'Vega', 48, 78),
  (3, 'Ursula Kern', 'Vega', 50, 12),
  (4, 'Jonas Vik', 'Arcturus', 46, 49),
  (5, 'Sven Dahl', 'Arcturus', 33, 57),
  (6, 'Ines Prado', 'Arcturus', 47, 38),
  (7, 'Felix Orr', 'Arcturus', 26, 9),
  (8, 'Maud Perrin', 'Cassini', 67, 16),
  (9, 'Zeno Costa', 'Arcturus', 65, 87),
  (10, 'Una Byrne', 'Cassini', 51, 39),
  (11, 'Zora Milic', 'Arcturus', 66, 84),
  (12, 'Ralf Stein', 'Kepler', 38, 22),
  (13, 'Britt Sund', 'Vega', 64, 34),
  (14, 'Dina Amari', 'Vega', 44, 37),
  (15, 'Lara Voss', 'Kepler', 34, 58),
  (16, 'Yara Haddad', 'Kepler', 37, 68),
  (17, 'Otis Grant', 'Arcturus', 28, 43),
  (18, 'Olga Petrova', 'Vega', 59, 27);

INSERT INTO observation (observation_id, astronomer_id, telescope_id, target, hours) VALUES
  (1, 1, 7, 'comet', 4),
  (2, 1, 10, 'comet', 11),
  (3, 1, 11, 'comet', 7),
  (4, 2, 3, 'galaxy', 6),
  (5, 2, 5, 'galaxy', 4),
  (6, 2, 7, 'galaxy', 8),
  (7, 2, 8, 'galaxy', 1),
  (8, 3, 1, 'galaxy', 12),
  (9, 3, 3, 'comet', 6),
  (10, 3, 11, 'planet', 12),
  (11, 4, 1, 'nebula', 7),
  (12, 4, 2, 'planet', 6),
  (13, 4, 5, 'pulsar', 11),
  (14, 4, 6, 'planet', 7),
  (15, 4, 7, 'pulsar', 4),
  (16, 4, 8, 'comet', 1),
  (17, 6, 1, 'comet', 5),
  (18, 6, 5, 'comet', 12),
  (19, 6, 6, 'galaxy', 9),
  (20, 6, 7, 'galaxy', 2),
  (21, 6, 8, 'pulsar', 4),
  (22, 6, 11, 'nebula', 8),
  (23, 6, 12, 'planet', 4),
  (24, 7, 3, 'comet', 5),
  (25, 7, 6, 'comet', 4),
  (26, 7, 11, 'galaxy', 4),
  (27, 8, 2, 'comet', 8),
  (28, 8, 5, 'nebula', 4),
  (29, 8, 8, 'comet', 5),
  (30, 8, 10, 'planet', 5),
  (31, 8, 11, 'comet', 2),
  (32, 9, 2, 'comet', 10),
  (33, 9, 7, 'pulsar', 8),
  (34, 9, 8, 'galaxy', 10),
  (35, 9, 11, 'nebula', 3),
  (36, 10, 1, 'nebula', 4),
  (37, 10, 5, 'galaxy', 8),
  (38, 10, 10, 'galaxy', 7),
  (39, 10, 11, 'comet', 11),
  (40, 12, 8, 'pulsar', 1),
  (41, 13, 10, 'nebula', 10),
  (42, 14, 12, 'comet', 3),
  (43, 15, 3, 'pulsar', 7),
  (44, 17, 6, 'planet', 1),
  (45, 18, 10, 'comet', 4);
