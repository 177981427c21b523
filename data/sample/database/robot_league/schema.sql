-- A league of fighting robots: teams, their robots and engineers, the arenas and the bouts.

CREATE TABLE team (
  team_id INTEGER PRIMARY KEY,
  name TEXT,
  city TEXT,
  budget INTEGER
);

CREATE TABLE robot (
  robot_id INTEGER PRIMARY KEY,
  name TEXT,
  drive TEXT,
  weight INTEGER,
  team_id INTEGER,
  FOREIGN KEY (team_id) REFERENCES team (team_id)
);

CREATE TABLE engineer (
  engineer_id INTEGER PRIMARY KEY,
  name TEXT,
  specialty TEXT,
  age INTEGER,
  team_id INTEGER,
  FOREIGN KEY (team_id) REFERENCES team (team_id)
);

CREATE TABLE arena (
  arena_id INTEGER PRIMARY KEY,
  name TEXT,
  surface TEXT,
  seats INTEGER
);

CREATE TABLE bout (
  bout_id INTEGER PRIMARY KEY,
  robot_id INTEGER,
  arena_id INTEGER,
  round INTEGER,
  points INTEGER,
  FOREIGN KEY (robot_id) REFERENCES robot (robot_id),
  FOREIGN KEY (arena_id) REFERENCES arena (arena_id)
);

INSERT INTO team (team_id, name, city, budget) VALUES
  (1, 'Bolt Crew', 'Osaka', 1500),
  (2, 'Circuit Club', 'Leeds', 3250),
  (3, 'Dynamo Kids', 'Leeds', 5500),
  (4, 'Gear Guild', 'Leeds', 3750),
  (5, 'Iron Tide', 'Leeds', 4000),
  (6, 'Junk Jury', 'Austin', 2750),
  (7, 'Motor Mob', 'Osaka', 6000),
  (8, 'Spark Squad', 'Osaka', 4250),
  (9, 'Wire Wolves', 'Austin', 1750);

INSERT INTO robot (robot_id, name, drive, weight, team_id) VALUES
  (1, 'Axle', 'wheels', 36, 2),
  (2, 'Bonk', 'wheels', 86, 2),
  (3, 'Crusher', 'tracks', 64, 4),
  (4, 'Dent', 'tracks', 100, 7),
  (5, 'Edge', 'wheels', 94, 2),
  (6, 'Flipper', 'legs', 20, 6),
  (7, 'Grinder', 'tracks', 104, 6),
  (8, 'Hammer', 'wheels', 46, 1),
  (9, 'Jolt', 'tracks', 28, 2),
  (10, 'Knocker', 'wheels', 56, 6),
  (11, 'Laser Ant', 'tracks', 52, 9),
  (12, 'Mauler', 'wheels', 32, 4),
  (13, 'Nibbler', 'legs', 38, 6),
  (14, 'Piston', 'tracks', 48, 8),
  (15, 'Ripper', 'tracks', 42, 6),
  (16, 'Saw Bug', 'tracks', 68, 2),
  (17, 'Tumbler', 'legs', 84, 4),
  (18, 'Vortex', 'legs', 82, 1),
  (19, 'Wedge', 'wheels', 70, 3),
  (20, 'Zapper', 'tracks', 102, 3);

INSERT INTO engineer (engineer_id, name, specialty, age, team_id) VALUES
  (1, 'Ralf Stein', 'sensors', 45, 3),
  (2, 'Tara Singh', 'software', 27, 3),
  (3, 'Sofia Leal', 'welding', 40, 5),
  (4, 'Vera Lind', 'motors', 25, 5),
  (5, 'Britt Sund', 'software', 42, 6),
  (6, 'Pavel Horak', 'motors', 40, 2),
  (7, 'Leo Farkas', 'software', 49, 4),
  (8, 'Wanda Pike', 'welding', 52, 3),
  (9, 'Tomas Ruiz', 'software', 54, 9),
  (10, 'Gemma Tate', 'software', 32, 4),
  (11, 'Yusuf Aydin', 'welding', 37, 5),
  (12, 'Jan Kowal', 'software', 46, 1),
  (13, 'Petra Zeman', 'software', 40, 1),
  (14, 'Karin Stahl', 'welding', 46, 5),
  (15, 'Ada Brandt', 'sensors', 35, 7),
  (16, 'Pia Rossi', 'welding', 54, 3),
  (17, 'Kira Novak', 'welding', 22, 3),
  (18, 'Felix Orr', 'sensors', 37, 2),
  (19, 'Finn Morrow', 'welding', 37, 3),
  (20, 'Nils Berg', 'welding', 41, 2),
  (21, 'Zita Balog', 'motors', 50, 3),
  (22, 'Ivo Jansen', 'sensors', 44, 2);

INSERT INTO arena (arena_id, name, surface, seats) VALUES
  (1, 'Cage Hall', 'steel', 2200),
  (2, 'Dome Nine', 'sand', 2300),
  (3, 'Pit Lane', 'steel', 2100),
  (4, 'Rust Bowl', 'concrete', 400),
  (5, 'Steel Court', 'concrete', 800),
  (6, 'Thunder Box', 'steel', 300),
  (7, 'Volt Garden', 'sand', 1600);

INSERT INTO bout (bout_id, robot_id, arena_id, round, points) VALUES
  (1, 1, 1, 4, 22),
  (2, 1, 2, 6, 4),
  (3, 1, 3, 4, 14),
  (4, 1, 4, 5, 25),
  (5, 1, 7, 2, 37),
  (6, 2, 1, 4, 33),
  (7, 2, 2, 3, 16),
  (8, 2, 3, 6, 33),
  (9, 2, 4, 1, 20),
  (10, 2, 7, 3, 30),
  (11, 3, 1, 3, 32),
  (12, 3, 4, 3, 37),
  (13, 3, 7, 4, 12),
  (14, 5, 1, 2, 12),
  (15, 5, 4, 5, 13),
  (16, 5, 7, 1, 12),
  (17, 6, 1, 3, 5),
  (18, 6, 2, 2, 11),
  (19, 6, 6, 5, 18),
  (20, 6, 7, 2, 23),
  (21, 7, 1, 3, 36),
  (22, 7, 3, 5, 36),
  (23, 7, 6, 6, 22),
  (24, 7, 7, 4, 25),
  (25, 8, 3, 3, 33),
  (26, 8, 4, 5, 9),
  (27, 9, 1, 1, 15),
  (28, 9, 2, 5, 2),
  (29, 9, 4, 5, 31),
  (30, 9, 6, 4, 23),
  (31, 9, 7, 4, 6),
  (32, 10, 1, 2, 23),
  (33, 10, 7, 6, 40),
  (34, 11, 1, 2, 29),
  (35, 11, 2, 3, 5),
  (36, 11, 3, 5, 9),
  (37, 11, 4, 1, 20),
  (38, 11, 6, 6, 38),
  (39, 11, 7, 4, 1),
  (40, 12, 2, 4, 22),
  (41, 12, 3, 6, 17),
  (42, 12, 4, 2, 33),
  (43, 12, 6, 3, 38),
  (44, 12, 7, 5, 1),
  (45, 13, 2, 1, 6),
  (46, 15, 3, 4, 2),
  (47, 16, 6, 4, 13),
  (48, 17, 7, 5, 36),
  (49, 19, 3, 1, 31),
  (50, 20, 3, 5, 37);
