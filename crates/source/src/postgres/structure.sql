-- What the catalog knows of the relation with OID $1, as the JSON of `TableFacts`; no row when there is none.
--
-- Run as a query by who reads the catalog, and part of the function that the DDL trigger calls: one text, so that both
-- say the same. Valid on PostgreSQL 14 to 18. The session must have a search_path without user schemas, or names of types
-- and expressions would lack theirs; and the pinned output settings, for the values of added columns.
WITH RECURSIVE
attribute AS (
  SELECT a.* FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
),
-- What it has of partitions, at any depth. Those hold what a column was added with; it has none itself.
family(oid) AS (
  SELECT h.inhrelid FROM pg_catalog.pg_inherits h
  JOIN pg_catalog.pg_class r ON r.oid = h.inhparent WHERE h.inhparent = $1 AND r.relkind = 'p'
  UNION
  SELECT h.inhrelid FROM family f JOIN pg_catalog.pg_inherits h ON h.inhparent = f.oid
),
-- Every type that a column is of, directly or through arrays, domains, composites, ranges and multiranges.
used(type_oid) AS (
  SELECT a.atttypid FROM attribute a
  UNION
  SELECT inner_type.type_oid FROM used
  JOIN pg_catalog.pg_type t ON t.oid = used.type_oid
  CROSS JOIN LATERAL (
    SELECT t.typelem WHERE t.typelem <> 0
    UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
    UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.typtype = 'r' AND r.rngtypid = t.oid
    UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.typtype = 'm' AND r.rngmultitypid = t.oid
    UNION ALL SELECT f.atttypid FROM pg_catalog.pg_attribute f
      WHERE t.typrelid <> 0 AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
  ) inner_type(type_oid)
)
SELECT pg_catalog.json_build_object(
  'oid', c.oid::pg_catalog.int8,
  'schema', n.nspname,
  'name', c.relname,
  'kind', c.relkind,
  'persistence', c.relpersistence,
  'replica_identity', c.relreplident,
  'owner', pg_catalog.pg_get_userbyid(c.relowner),
  'comment', pg_catalog.obj_description(c.oid, 'pg_class'),
  'primary_key', coalesce((
    SELECT pg_catalog.json_agg(a.attname ORDER BY k.place)
    FROM pg_catalog.pg_index i
    CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k(number, place)
    JOIN attribute a ON a.attnum = k.number
    WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts), '[]'::pg_catalog.json),
  'partition_of', CASE WHEN c.relispartition THEN (
    SELECT pg_catalog.quote_ident(pn.nspname) || '.' || pg_catalog.quote_ident(p.relname)
    FROM pg_catalog.pg_inherits h
    JOIN pg_catalog.pg_class p ON p.oid = h.inhparent
    JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
    WHERE h.inhrelid = c.oid LIMIT 1) END,
  'partition_bound', pg_catalog.pg_get_expr(c.relpartbound, c.oid),
  'partition_key', CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END,
  'columns', coalesce((
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'number', a.attnum,
      'name', a.attname,
      'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
      'type_oid', a.atttypid::pg_catalog.int8,
      'type_modifier', a.atttypmod,
      'not_null', a.attnotnull,
      'default', pg_catalog.pg_get_expr(d.adbin, d.adrelid),
      'generated', a.attgenerated::pg_catalog.text,
      'identity', a.attidentity::pg_catalog.text,
      'collation', (
        SELECT pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(co.collname)
        FROM pg_catalog.pg_type t
        JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
        JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
        WHERE t.oid = a.atttypid AND a.attcollation <> t.typcollation),
      'comment', pg_catalog.col_description(a.attrelid, a.attnum),
      'missing', CASE WHEN a.atthasmissing THEN a.attmissingval::pg_catalog.text
        WHEN c.relkind = 'p' THEN (
          SELECT m.attmissingval::pg_catalog.text FROM family f
          JOIN pg_catalog.pg_attribute m ON m.attrelid = f.oid AND m.attname = a.attname
          WHERE m.atthasmissing AND m.atttypid = a.atttypid ORDER BY f.oid DESC LIMIT 1) END
    ) ORDER BY a.attnum)
    FROM attribute a
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum), '[]'::pg_catalog.json),
  'types', coalesce((
    SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'oid', t.oid::pg_catalog.int8,
      'schema', tn.nspname,
      'name', t.typname,
      'kind', t.typtype,
      'labels', coalesce((
        SELECT pg_catalog.json_agg(e.enumlabel ORDER BY e.enumsortorder)
        FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid), '[]'::pg_catalog.json),
      'attributes', coalesce((
        SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
          'name', f.attname, 'type', pg_catalog.format_type(f.atttypid, f.atttypmod)) ORDER BY f.attnum)
        FROM pg_catalog.pg_attribute f
        WHERE t.typrelid <> 0 AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped), '[]'::pg_catalog.json),
      'base', CASE WHEN t.typbasetype <> 0 THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END,
      'not_null', t.typnotnull,
      'default', CASE WHEN t.typtype = 'd' THEN t.typdefault END,
      'checks', coalesce((
        SELECT pg_catalog.json_agg(pg_catalog.pg_get_constraintdef(x.oid) ORDER BY x.conname)
        FROM pg_catalog.pg_constraint x WHERE x.contypid = t.oid AND x.contype = 'c'), '[]'::pg_catalog.json)
    ) ORDER BY tn.nspname, t.typname)
    FROM pg_catalog.pg_type t
    JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
    WHERE t.typtype IN ('e', 'c', 'd') AND t.oid IN (SELECT used.type_oid FROM used)), '[]'::pg_catalog.json)
)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = $1
