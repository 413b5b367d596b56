EXECUTE IMMEDIATE $$
DECLARE
  HOOKLINE_FENCED EXCEPTION (-20001, 'HOOKLINE_FENCED');
  HOOKLINE_OCCUPIED EXCEPTION (-20002, 'HOOKLINE_OCCUPIED');
  HOOKLINE_OVERTAKEN EXCEPTION (-20003, 'HOOKLINE_OVERTAKEN');
BEGIN
  BEGIN TRANSACTION;
  MERGE INTO hookline_fence AS fence
    USING (SELECT 3 AS log_partition) AS claimed
    ON fence.log_partition = claimed.log_partition
    WHEN NOT MATCHED THEN INSERT (log_partition, pipeline, cluster_id, topic, effect_offset, effect_ordinal, digest,
      lineage, claim, updated_at)
      VALUES (claimed.log_partition, 'shop', 'c-1', 't', -1, 0, TO_BINARY('00000000000000000000000000000000', 'HEX'), 0, -1, SYSDATE());
  UPDATE hookline_fence SET lineage = 1, claim = 42, updated_at = SYSDATE()
    WHERE log_partition = 3 AND (lineage < 1 OR (lineage = 1 AND claim <= 42))
      AND (SELECT COUNT(*) FROM hookline_fence WHERE pipeline <> 'shop' OR cluster_id <> 'c-1' OR topic <> 't') = 0;
  IF (SQLROWCOUNT = 0) THEN
    RAISE HOOKLINE_FENCED;
  END IF;
  COMMIT;
EXCEPTION
  WHEN OTHER THEN
    ROLLBACK;
    RAISE;
END;
$$
