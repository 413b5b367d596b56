EXECUTE IMMEDIATE $$
DECLARE
  HOOKLINE_FENCED EXCEPTION (-20001, 'HOOKLINE_FENCED');
  HOOKLINE_OCCUPIED EXCEPTION (-20002, 'HOOKLINE_OCCUPIED');
BEGIN
  BEGIN TRANSACTION;
  UPDATE hookline_fence SET effect_offset = 9, effect_ordinal = 0, digest = TO_BINARY('abababababababababababababababab', 'HEX'), updated_at = SYSDATE()
    WHERE log_partition = 3 AND effect_offset = 6 AND effect_ordinal = 2 AND lineage = 1 AND claim = 42;
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
