-- Mountain huts, guides and the tours that guides lead from the huts.

CREATE TABLE hut (
  hut_id INTEGER PRIMARY KEY,
  name TEXT,
  valley TEXT,
  altitude INTEGER,
  beds INTEGER
);

CREATE TABLE guide (
  guide_id INTEGER PRIMARY KEY,
  name TEXT,
  language TEXT,
  age INTEGER,
  fee INTEGER
);

CREATE TABLE tour (
  tour_id INTEGER PRIMARY KEY,
  guide_id INTEGER,
  hut_id INTEGER,
  grade TEXT,
  days INTEGER,
  price INTEGER,
  FOREIGN KEY (guide_id) REFERENCES guide (guide_id),
  FOREIGN KEY (hut_id) REFERENCES hut (hut_id)
);

INSERT INTO hut (hut_id, name, valley, altitude, beds) VALUES
  (1, 'Bear Cabin', 'Corvo', 3150, 20),
  (2, 'Cloud Hut', 'Drava', 2250, 10),
  (3, 'Dawn Refuge', 'Arven', 3100, 90),
  (4, 'Eagle Nest', 'Drava', 3000, 16),
  (5, 'Frost Lodge', 'Brenta', 1850, 28),
  (6, 'Goat Pass', 'Brenta', 2000, 74),
  (7, 'High Barn', 'Brenta', 2050, 70),
  (8, 'Ibex Shelter', 'Brenta', 2350, 66),
  (9, 'Larch Hut', 'Corvo', 1550, 62),
  (10, 'Marmot Inn', 'Arven', 1600, 14),
  (11, 'North Wall', 'Arven', 1650, 8),
  (12, 'Pine Rest', 'Arven', 2200, 50),
  (13, 'Ridge House', 'Brenta', 2600, 56),
  (14, 'Snow Gate', 'Arven', 2650, 44);

INSERT INTO guide (guide_id, name, language, age, fee) VALUES
  (1, 'Xenia Kostas', 'Italian', 58, 250),
  (2, 'Ralf Stein', 'Italian', 51, 155),
  (3, 'Selma Aas', 'German', 52, 160),
  (4, 'Anton Beck', 'German', 38, 230),
  (5, 'Gus Ferro', 'German', 33, 130),
  (6, 'Rosa Vidal', 'German', 46, 170),
  (7, 'Niko Laine', 'German', 45, 280),
  (8, 'Kofi Mensah', 'French', 36, 305),
  (9, 'Zita Balog', 'Polish', 56, 275),
  (10, 'Greta Holm', 'German', 35, 205),
  (11, 'Ursula Kern', 'German', 59, 260),
  (12, 'Willa Stone', 'Polish', 43, 165),
  (13, 'Ida Moen', 'Italian', 41, 215),
  (14, 'Yves Caron', 'Italian', 29, 320),
  (15, 'Orla Keane', 'Polish', 32, 315),
  (16, 'Marek Duda', 'French', 61, 300);

INSERT INTO tour (tour_id, guide_id, hut_id, grade, days, price) VALUES
  (1, 1, 2, 'expert', 1, 480),
  (2, 1, 8, 'expert', 5, 660),
  (3, 1, 11, 'easy', 6, 240),
  (4, 1, 12, 'moderate', 4, 300),
  (5, 1, 13, 'hard', 2, 500),
  (6, 2, 2, 'moderate', 6, 660),
  (7, 2, 4, 'moderate', 3, 680),
  (8, 2, 13, 'hard', 6, 820),
  (9, 2, 14, 'easy', 3, 560),
  (10, 3, 1, 'easy', 2, 460),
  (11, 3, 5, 'easy', 6, 300),
  (12, 3, 6, 'easy', 2, 800),
  (13, 3, 8, 'hard', 5, 180),
  (14, 3, 11, 'hard', 5, 140),
  (15, 3, 12, 'expert', 2, 100),
  (16, 3, 14, 'moderate', 3, 680),
  (17, 4, 2, 'moderate', 6, 720),
  (18, 4, 6, 'moderate', 7, 200),
  (19, 4, 12, 'easy', 1, 520),
  (20, 4, 14, 'expert', 5, 820),
  (21, 5, 1, 'expert', 4, 420),
  (22, 5, 2, 'easy', 7, 220),
  (23, 5, 11, 'easy', 2, 720),
  (24, 5, 12, 'easy', 6, 640),
  (25, 5, 13, 'moderate', 6, 720),
  (26, 6, 1, 'easy', 2, 340),
  (27, 6, 5, 'moderate', 5, 780),
  (28, 6, 6, 'moderate', 4, 500),
  (29, 6, 8, 'hard', 7, 100),
  (30, 6, 13, 'hard', 7, 540),
  (31, 8, 6, 'hard', 4, 200),
  (32, 8, 7, 'hard', 7, 460),
  (33, 8, 13, 'easy', 2, 900),
  (34, 8, 14, 'easy', 1, 880),
  (35, 9, 5, 'easy', 6, 420),
  (36, 9, 8, 'moderate', 3, 400),
  (37, 9, 13, 'expert', 1, 200),
  (38, 9, 14, 'moderate', 3, 260),
  (39, 10, 1, 'expert', 4, 120),
  (40, 10, 6, 'easy', 2, 120),
  (41, 10, 7, 'moderate', 1, 600),
  (42, 11, 13, 'moderate', 1, 280),
  (43, 13, 14, 'moderate', 3, 460),
  (44, 14, 12, 'easy', 3, 560),
  (45, 15, 4, 'moderate', 2, 320),
  (46, 16, 6, 'easy', 1, 900);
