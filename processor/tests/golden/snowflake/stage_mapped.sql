INSERT OVERWRITE INTO hookline_mapped (part, content) SELECT value:part::NUMBER(10, 0), value:content FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?)))
