-- A network of podcasts: hosts, their shows and the episodes.

CREATE TABLE host (
  host_id INTEGER PRIMARY KEY,
  name TEXT,
  country TEXT,
  age INTEGER
);

CREATE TABLE show (
  show_id INTEGER PRIMARY KEY,
  title TEXT,
  topic TEXT,
  subscribers INTEGER,
  year_started INTEGER,
  host_id INTEGER,
  FOREIGN KEY (host_id) REFERENCES host (host_id)
);

CREATE TABLE episode (
  episode_id INTEGER PRIMARY KEY,
  title TEXT,
  minutes INTEGER,
  downloads INTEGER,
  show_id INTEGER,
  FOREIGN KEY (show_id) REFERENCES show (show_id)
);

INSERT INTO host (host_id, name, country, age) VALUES
  (1, 'Zeno Costa', 'Canada', 29),
  (2, 'Uma Rao', 'India', 53),
  (3, 'Xenia Kostas', 'Canada', 58),
  (4, 'Yara Haddad', 'Ireland', 33),
  (5, 'Una Byrne', 'Canada', 52),
  (6, 'Dan Okafor', 'Ireland', 31),
  (7, 'Sven Dahl', 'Kenya', 56),
  (8, 'Jonas Vik', 'Canada', 32),
  (9, 'Viggo Lund', 'Ireland', 60),
  (10, 'Wim de Boer', 'Canada', 59),
  (11, 'Bo Lindgren', 'Canada', 37),
  (12, 'Hana Ito', 'India', 42),
  (13, 'Edda Frost', 'Kenya', 61);

INSERT INTO show (show_id, title, topic, subscribers, year_started, host_id) VALUES
  (1, 'Bread and Data', 'science', 11000, 2012, 1),
  (2, 'Cold Trails', 'history', 7500, 2012, 13),
  (3, 'Deep Tide', 'history', 6500, 2022, 9),
  (4, 'Errant Maps', 'music', 16500, 2011, 6),
  (5, 'Future Farm', 'science', 17500, 2012, 5),
  (6, 'Ghost Notes', 'history', 12500, 2008, 12),
  (7, 'Hidden Rooms', 'science', 13000, 2020, 10),
  (8, 'Inner Ear', 'history', 500, 2008, 8),
  (9, 'Just Kites', 'science', 11500, 2010, 9),
  (10, 'Late Train', 'science', 3000, 2016, 4),
  (11, 'Minor Kings', 'science', 14000, 2009, 5),
  (12, 'Odd Jobs', 'history', 4000, 2017, 11),
  (13, 'Pocket Law', 'crime', 5500, 2021, 3),
  (14, 'Quiet Riot', 'music', 9000, 2013, 6),
  (15, 'Rain Delay', 'music', 15000, 2015, 5),
  (16, 'Small Gods', 'crime', 8000, 2018, 1);

INSERT INTO episode (episode_id, title, minutes, downloads, show_id) VALUES
  (1, 'After Dark', 70, 8900, 7),
  (2, 'Bad Weather', 71, 5900, 8),
  (3, 'Center Stage', 51, 3700, 2),
  (4, 'Dead Ends', 24, 4600, 9),
  (5, 'Early Birds', 65, 3800, 6),
  (6, 'False Start', 72, 8700, 6),
  (7, 'Good Company', 65, 5100, 10),
  (8, 'High Water', 66, 6800, 1),
  (9, 'Inside Out', 48, 7200, 7),
  (10, 'Jump Cut', 35, 7700, 8),
  (11, 'Key Witness', 68, 5000, 3),
  (12, 'Lost Luggage', 58, 4200, 9),
  (13, 'Mixed Signals', 63, 100, 8),
  (14, 'New Moon', 58, 6400, 10),
  (15, 'Open Door', 63, 4900, 6),
  (16, 'Plan B', 26, 5700, 8),
  (17, 'Quick Fix', 44, 3900, 8),
  (18, 'Rough Draft', 73, 2400, 16),
  (19, 'Second Wind', 24, 6900, 9),
  (20, 'Third Rail', 18, 7400, 1),
  (21, 'Under Glass', 44, 1900, 10),
  (22, 'Voice Mail', 67, 5600, 10),
  (23, 'White Noise', 53, 7600, 4),
  (24, 'X Marks', 55, 3000, 4),
  (25, 'Yes Men', 25, 1200, 10),
  (26, 'Zero Hour', 49, 4300, 11),
  (27, 'Blue Monday', 43, 7900, 10),
  (28, 'Clean Slate', 54, 6300, 3),
  (29, 'Double Bill', 27, 5400, 2),
  (30, 'Empty Nest', 44, 7100, 8),
  (31, 'Field Notes', 72, 6200, 14),
  (32, 'Gray Area', 68, 1600, 13),
  (33, 'Half Life', 35, 2100, 7),
  (34, 'Iron Will', 73, 1400, 2),
  (35, 'Joy Ride', 57, 2800, 10),
  (36, 'Kind Words', 56, 7800, 9),
  (37, 'Last Call', 25, 200, 7),
  (38, 'Many Hands', 42, 400, 10),
  (39, 'Night Shift', 72, 1700, 1),
  (40, 'Old Habits', 46, 8800, 15);
