DELETE FROM "PUBLIC"."LINES"
  USING (SELECT content['p0c0']::VARCHAR AS c0
    FROM hookline_mapped WHERE part = 0) AS given
  WHERE "PUBLIC"."LINES"."ID" = given.c0;
INSERT INTO "PUBLIC"."HISTORY" ("EVENT")
  SELECT given.c0
  FROM (SELECT content['p2c0']::VARCHAR AS c0
    FROM hookline_mapped WHERE part = 2) AS given;
MERGE INTO "PUBLIC"."MARKED" AS kept
  USING (SELECT PARSE_JSON(content['p4c0']::VARCHAR) AS c0, content['p4c1']::VARCHAR::BOOLEAN AS c1, content['p4c2']::VARCHAR AS c2
    FROM hookline_mapped WHERE part = 4) AS given
  ON kept."ID" = given.c2
  WHEN MATCHED THEN UPDATE SET "BODY" = given.c0, "GONE" = given.c1
  WHEN NOT MATCHED THEN INSERT ("BODY", "GONE", "ID")
    VALUES (given.c0, given.c1, given.c2);
UPDATE "PUBLIC"."MARKED" SET "GONE" = given.c1
  FROM (SELECT content['p5c2']::VARCHAR AS c2, content['p5c1']::VARCHAR::BOOLEAN AS c1
    FROM hookline_mapped WHERE part = 5) AS given
  WHERE "PUBLIC"."MARKED"."ID" = given.c2;
MERGE INTO "PUBLIC"."ORDERS" AS kept
  USING (SELECT (content['p6c0']::VARCHAR || '+00:00')::TIMESTAMP_TZ AS c0, content['p6c1']::VARCHAR AS c1, content['p6c2']::VARCHAR::NUMBER(12, 2) AS c2
    FROM hookline_mapped WHERE part = 6) AS given
  ON kept."ID" = given.c1
  WHEN MATCHED THEN UPDATE SET "AT" = given.c0, "TOTAL" = given.c2
  WHEN NOT MATCHED THEN INSERT ("AT", "ID", "TOTAL")
    VALUES (given.c0, given.c1, given.c2);
INSERT INTO "PUBLIC"."LINES" ("ID", "NO")
  SELECT given.c0, given.c1
  FROM (SELECT content['p8c0']::VARCHAR AS c0, content['p8c1']::VARCHAR::NUMBER(38, 0) AS c1
    FROM hookline_mapped WHERE part = 8) AS given;
DELETE FROM "PUBLIC"."ORDERS"
  USING (SELECT content['p14c1']::VARCHAR AS c1
    FROM hookline_mapped WHERE part = 14) AS given
  WHERE "PUBLIC"."ORDERS"."ID" = given.c1
