-- Records schema changes of this database for dbstreamd, as logical messages in the WAL of the transactions that make them.
-- Sent as one query, so that all of it happens or none. To be run again at any time; removal: see remove.sql.
SELECT pg_catalog.pg_advisory_xact_lock(7236831203714523511);
CREATE SCHEMA IF NOT EXISTS dbstreamd;
CREATE OR REPLACE FUNCTION dbstreamd.capture_ddl() RETURNS pg_catalog.event_trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
-- As the stream's own session has them: values of added columns are in the text form of the rows.
SET "TimeZone" = 'UTC'
SET "DateStyle" = 'ISO, MDY'
SET "IntervalStyle" = 'postgres'
SET bytea_output = 'hex'
SET extra_float_digits = '3'
SET lc_monetary = 'C'
SET quote_all_identifiers = 'off'
-- What is looked at is locked by the command already; should it not be, the record is incomplete and nobody waits.
SET lock_timeout = '100ms'
AS $capture$
-- Nothing in here may make the command fail: whatever goes wrong is said in the record, or not recorded.
DECLARE
  _statement_chars_max CONSTANT pg_catalog.int4 := 65536;
  _tables_max CONSTANT pg_catalog.int4 := 200;
  _objects_max CONSTANT pg_catalog.int4 := 1000;
  _edges_max CONSTANT pg_catalog.int4 := 100000;
  _document_bytes_max CONSTANT pg_catalog.int4 := 4194304;
  _query pg_catalog.text;
  _statement pg_catalog.text;
  _error pg_catalog.text := '';
  _objects pg_catalog.json := '[]';
  _dropped pg_catalog.json := '[]';
  _diverged pg_catalog.json := '[]';
  _count pg_catalog.int8 := 0;
  _relations pg_catalog.oid[] := '{}';
  _types pg_catalog.oid[] := '{}';
  _relation pg_catalog.oid;
  _described pg_catalog.json;
  _tables pg_catalog.text := '';
  _tables_count pg_catalog.int4 := 0;
  _tables_left pg_catalog.int4 := 0;
  _tables_failed pg_catalog.text := '';
  _document pg_catalog.text;
  _reason pg_catalog.int4;
  _edges pg_catalog.text;
BEGIN
  BEGIN
    _query := coalesce(pg_catalog.current_query(), '');
    -- No changes of the schema; and what an extension's own script drops is the extension's business.
    IF TG_TAG IN ('REFRESH MATERIALIZED VIEW', 'REINDEX')
      OR (TG_EVENT = 'sql_drop' AND TG_TAG !~ 'EXTENSION' AND _query ~* '^\s*(create|alter)\s+extension\M')
    THEN
      RETURN;
    END IF;
    IF TG_EVENT = 'ddl_command_start' THEN
      -- Which partition is attached, detached or dropped is nowhere said afterwards: remember who belonged to whom. A
      -- statement that is ALTER TABLE itself would have the word in it.
      _edges := '';
      IF (TG_TAG = 'ALTER TABLE' AND (_query ~* '(at|de)tach' OR _query !~* '^\s*alter\s'))
        OR (TG_TAG <> 'ALTER TABLE' AND EXISTS (SELECT 1 FROM pg_catalog.pg_publication p WHERE p.pubviaroot))
      THEN
        SELECT pg_catalog.count(*), 'known,' || coalesce(pg_catalog.string_agg(h.inhrelid::text || '>' || h.inhparent::text, ','), '')
        INTO _count, _edges
        FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid WHERE c.relispartition;
        IF _count > _edges_max THEN
          _edges := 'many';
        END IF;
      END IF;
      PERFORM pg_catalog.set_config('dbstreamd.partitions', _edges, false);
      RETURN;
    END IF;

    -- Connection strings and passwords are nobody's business; the command's tag and objects are recorded all the same.
    _statement := CASE
      WHEN TG_TAG ~ 'SUBSCRIPTION|USER MAPPING|SERVER'
        OR _query ~* '\mpassword\M\s*(=|e?''|u&''|\$)|\m(subscription|user\s+mapping)\M' THEN ''
      WHEN pg_catalog.length(_query) > _statement_chars_max THEN
        pg_catalog.left(_query, _statement_chars_max) || ' [cut: ' || pg_catalog.octet_length(_query)::text || ' bytes in all]'
      ELSE _query END;

    IF TG_EVENT = 'ddl_command_end' THEN
      SELECT pg_catalog.count(*),
        coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
          'type', c.object_type, 'schema', coalesce(c.schema_name, ''), 'name', coalesce(c.name, ''),
          'identity', coalesce(c.object_identity, ''), 'oid', coalesce(c.objid::int8, 0)) ORDER BY c.place)
          FILTER (WHERE c.place <= _objects_max), '[]'),
        coalesce(pg_catalog.array_agg(c.relation ORDER BY c.place) FILTER (WHERE c.relation IS NOT NULL), '{}'),
        coalesce(pg_catalog.array_agg(c.type_oid ORDER BY c.place) FILTER (WHERE c.type_oid IS NOT NULL), '{}')
      INTO _count, _objects, _relations, _types
      FROM (
        SELECT d.*, pg_catalog.row_number() OVER () AS place, i.name,
          CASE
            WHEN d.classid = 'pg_catalog.pg_class'::regclass THEN coalesce(
              (SELECT x.indrelid FROM pg_catalog.pg_index x WHERE x.indexrelid = d.objid), d.objid)
            WHEN d.classid = 'pg_catalog.pg_constraint'::regclass THEN
              (SELECT nullif(k.conrelid, 0) FROM pg_catalog.pg_constraint k WHERE k.oid = d.objid)
          END AS relation,
          CASE
            WHEN d.classid = 'pg_catalog.pg_type'::regclass THEN d.objid
            WHEN d.classid = 'pg_catalog.pg_class'::regclass THEN
              (SELECT nullif(t.reltype, 0) FROM pg_catalog.pg_class t WHERE t.oid = d.objid AND t.relkind = 'c')
            WHEN d.classid = 'pg_catalog.pg_constraint'::regclass THEN
              (SELECT nullif(k.contypid, 0) FROM pg_catalog.pg_constraint k WHERE k.oid = d.objid)
          END AS type_oid
        FROM pg_catalog.pg_event_trigger_ddl_commands() d
        LEFT JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) i ON d.objid IS NOT NULL
        WHERE NOT d.in_extension
          AND coalesce(d.schema_name, '') !~ '^(pg_temp|pg_toast|dbstreamd$)'
          AND NOT (d.object_type = 'schema' AND coalesce(d.object_identity, '') ~ '^(dbstreamd$|pg_temp)')
      ) c;
      IF _count = 0 THEN
        PERFORM pg_catalog.set_config('dbstreamd.partitions', '', false);
        RETURN;
      END IF;
      -- A schema that was renamed renames its tables.
      IF TG_TAG = 'ALTER SCHEMA' THEN
        _relations := _relations || coalesce((
          SELECT pg_catalog.array_agg(c.oid ORDER BY c.oid) FROM pg_catalog.pg_event_trigger_ddl_commands() d
          JOIN pg_catalog.pg_class c ON c.relnamespace = d.objid
          WHERE d.classid = 'pg_catalog.pg_namespace'::regclass), '{}');
      END IF;
      -- Tables that have a column of a type that was changed, or of one that is built of it.
      IF pg_catalog.cardinality(_types) > 0 THEN
        WITH RECURSIVE built(type_oid) AS (
          SELECT pg_catalog.unnest(_types)
          UNION
          SELECT outer_type.type_oid FROM built CROSS JOIN LATERAL (
            SELECT t.oid FROM pg_catalog.pg_type t WHERE t.typelem = built.type_oid OR t.typbasetype = built.type_oid
            UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngsubtype = built.type_oid
            UNION ALL SELECT r.rngmultitypid FROM pg_catalog.pg_range r WHERE r.rngsubtype = built.type_oid
            UNION ALL SELECT c.reltype FROM pg_catalog.pg_attribute a
              JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind = 'c'
              WHERE a.atttypid = built.type_oid AND NOT a.attisdropped
          ) outer_type(type_oid)
        )
        SELECT _relations || coalesce(pg_catalog.array_agg(DISTINCT a.attrelid), '{}') INTO _relations
        FROM built JOIN pg_catalog.pg_attribute a ON a.atttypid = built.type_oid AND a.attnum > 0 AND NOT a.attisdropped;
      END IF;

      -- Partitions that came or went.
      _edges := coalesce(pg_catalog.current_setting('dbstreamd.partitions', true), '');
      IF _edges = 'many' THEN
        _error := _error || 'More than ' || _edges_max::text
          || ' partitions: whether one was attached or detached was not looked at. ';
      ELSIF TG_TAG = 'ALTER TABLE' AND _edges <> '' THEN
        WITH before AS (
          SELECT pg_catalog.split_part(e.edge, '>', 1)::oid AS part, pg_catalog.split_part(e.edge, '>', 2)::oid AS parent
          FROM pg_catalog.unnest(pg_catalog.string_to_array(_edges, ',')) AS e(edge) WHERE e.edge LIKE '%>%'
        ), after AS (
          SELECT h.inhrelid AS part, h.inhparent AS parent
          FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid WHERE c.relispartition
        ), moved AS (
          (SELECT b.part, b.parent, 'detached' AS what FROM before b EXCEPT SELECT a.part, a.parent, 'detached' FROM after a)
          UNION ALL
          (SELECT a.part, a.parent, 'attached' FROM after a EXCEPT SELECT b.part, b.parent, 'attached' FROM before b)
        ), existing AS (
          SELECT m.part, m.parent, m.what, pg_catalog.format('%I.%I', n.nspname, c.relname) AS shown,
            -- What was detached, and has no partitions of its own, has no tree.
            coalesce((SELECT pg_catalog.sum(pg_catalog.pg_relation_size(l.relid))
              FROM pg_catalog.pg_partition_tree(m.part) l WHERE l.isleaf), pg_catalog.pg_relation_size(m.part)) > 0 AS filled
          FROM moved m
          JOIN pg_catalog.pg_class c ON c.oid = m.part JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE m.parent = ANY (_relations)
        ), diverged AS (
          SELECT n.nspname, c.relname, pg_catalog.string_agg(DISTINCT e.shown || ' was ' || e.what, ', ') AS detail,
            pg_catalog.json_agg(DISTINCT p.pubname::text) AS publications
          FROM existing e
          CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(e.parent) a(relid)
          JOIN pg_catalog.pg_class c ON c.oid = a.relid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          CROSS JOIN pg_catalog.pg_publication p
          CROSS JOIN LATERAL pg_catalog.pg_get_publication_tables(p.pubname) t
          WHERE e.filled AND p.pubviaroot AND t.relid = a.relid
          GROUP BY n.nspname, c.relname
        )
        SELECT _relations || coalesce((SELECT pg_catalog.array_agg(e.part) FROM existing e), '{}'),
          coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
            'schema', d.nspname, 'table', d.relname, 'reason', 'partition_moved',
            'detail', 'a partition with rows came or went without an event for each: ' || d.detail,
            'publications', d.publications)) FROM diverged d), '[]')
        INTO _relations, _diverged;
      END IF;
      PERFORM pg_catalog.set_config('dbstreamd.partitions', '', false);

      -- A change of a table is a change of what inherits from it.
      WITH RECURSIVE family(oid, depth) AS (
        SELECT DISTINCT r.oid, 0 FROM pg_catalog.unnest(_relations) AS r(oid)
        UNION
        SELECT h.inhrelid, f.depth + 1 FROM family f JOIN pg_catalog.pg_inherits h ON h.inhparent = f.oid
      )
      SELECT coalesce(pg_catalog.array_agg(m.oid ORDER BY m.depth, m.oid), '{}') INTO _relations
      FROM (SELECT f.oid, pg_catalog.min(f.depth) AS depth FROM family f GROUP BY f.oid) m;

    ELSIF TG_EVENT = 'sql_drop' THEN
      WITH gone AS (
        SELECT d.*, pg_catalog.row_number() OVER () AS place FROM pg_catalog.pg_event_trigger_dropped_objects() d
        WHERE NOT d.is_temporary AND coalesce(d.schema_name, '') !~ '^(pg_temp|pg_toast|dbstreamd$)'
          AND NOT (d.object_type = 'schema' AND coalesce(d.object_name, '') = 'dbstreamd')
          AND d.object_type NOT IN ('toast table', 'event trigger')
      ), said AS (
        -- A table's row type goes with it, and so do the triggers of its foreign keys.
        SELECT g.* FROM gone g
        WHERE NOT (g.object_type = 'type' AND EXISTS (SELECT 1 FROM gone r
          WHERE r.classid = 'pg_catalog.pg_class'::regclass AND r.objsubid = 0
            AND g.object_identity IN (r.object_identity, r.object_identity || '[]')))
          AND NOT (g.object_type = 'trigger' AND g.object_identity LIKE '"RI\_ConstraintTrigger%')
      )
      SELECT pg_catalog.count(*),
        coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
          'type', s.object_type, 'schema', coalesce(s.schema_name, ''), 'name', coalesce(s.object_name, ''),
          'identity', coalesce(s.object_identity, ''), 'oid', s.objid::int8) ORDER BY s.place)
          FILTER (WHERE s.place <= _objects_max), '[]'),
        -- Tables that are still there, and lost a column or a constraint along with something else.
        coalesce(pg_catalog.array_agg(DISTINCT CASE
          WHEN s.classid = 'pg_catalog.pg_class'::regclass AND s.objsubid <> 0 THEN s.objid
          WHEN s.object_type IN ('table constraint', 'default value') AND pg_catalog.cardinality(s.address_names) >= 2 THEN
            pg_catalog.to_regclass(pg_catalog.format('%I.%I', s.address_names[1], s.address_names[2]))::oid
          END), '{}')
      INTO _count, _dropped, _relations
      FROM said s;
      IF _count = 0 THEN
        RETURN;
      END IF;
      -- Rows of a partition that is dropped are gone from its root, too; how many they were cannot be seen any more.
      _edges := coalesce(pg_catalog.current_setting('dbstreamd.partitions', true), '');
      IF _edges = 'many' THEN
        _error := _error || 'More than ' || _edges_max::text
          || ' partitions: whether one was dropped was not looked at. ';
      ELSIF _edges <> '' THEN
        SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
          'schema', r.nspname, 'table', r.relname, 'reason', 'partition_moved',
          'detail', 'a partition was dropped, without an event for each of its rows: ' || r.shown,
          'publications', r.publications)), '[]')
        INTO _diverged
        FROM (
          SELECT n.nspname, c.relname, pg_catalog.string_agg(DISTINCT d.object_identity, ', ') AS shown,
            pg_catalog.json_agg(DISTINCT p.pubname::text) AS publications
          FROM pg_catalog.pg_event_trigger_dropped_objects() d
          JOIN (SELECT pg_catalog.split_part(e.edge, '>', 1)::oid AS part, pg_catalog.split_part(e.edge, '>', 2)::oid AS parent
            FROM pg_catalog.unnest(pg_catalog.string_to_array(_edges, ',')) AS e(edge) WHERE e.edge LIKE '%>%') b
            ON b.part = d.objid AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objsubid = 0
          JOIN pg_catalog.pg_class parent ON parent.oid = b.parent
          CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(parent.oid) a(relid)
          JOIN pg_catalog.pg_class c ON c.oid = a.relid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          CROSS JOIN pg_catalog.pg_publication p
          CROSS JOIN LATERAL pg_catalog.pg_get_publication_tables(p.pubname) t
          WHERE p.pubviaroot AND t.relid = a.relid
          GROUP BY n.nspname, c.relname
        ) r;
      END IF;

    ELSIF TG_EVENT = 'table_rewrite' THEN
      _relation := pg_catalog.pg_event_trigger_table_rewrite_oid();
      _reason := pg_catalog.pg_event_trigger_table_rewrite_reason();
      -- 2: a new column's values had to be computed; 4: a column's values were converted. Persistence (1) and access
      -- method (8) leave the rows what they are. A table without rows has nothing to rewrite.
      IF _reason & 6 = 0 OR pg_catalog.pg_relation_size(_relation) = 0 THEN
        RETURN;
      END IF;
      SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
        'schema', d.nspname, 'table', d.relname, 'reason', 'rewritten',
        'detail', CASE WHEN _reason & 4 <> 0 THEN 'the values of a column were converted to another type'
          ELSE 'a column was added whose values were computed for each row' END
          || CASE WHEN d.oid <> _relation THEN ' in partition ' || _relation::regclass::text ELSE '' END
          || ', without an event for each row',
        'publications', d.publications))
      INTO _diverged
      FROM (
        SELECT c.oid, n.nspname, c.relname, pg_catalog.json_agg(DISTINCT p.pubname::text) AS publications
        FROM (SELECT _relation AS relid UNION SELECT a.relid FROM pg_catalog.pg_partition_ancestors(_relation) a) a
        JOIN pg_catalog.pg_class c ON c.oid = a.relid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN pg_catalog.pg_publication p
        CROSS JOIN LATERAL pg_catalog.pg_get_publication_tables(p.pubname) t
        WHERE t.relid = a.relid
        GROUP BY c.oid, n.nspname, c.relname
      ) d;
      IF _diverged IS NULL THEN
        RETURN;
      END IF;
    ELSE
      RETURN;
    END IF;

    IF _count > _objects_max THEN
      _error := _error || (_count - _objects_max)::text || ' more objects are left out. ';
    END IF;
    FOR _relation IN
      SELECT c.oid FROM pg_catalog.unnest(_relations) WITH ORDINALITY AS r(oid, place)
      JOIN pg_catalog.pg_class c ON c.oid = r.oid
      WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' ORDER BY r.place
    LOOP
      IF _tables_count >= _tables_max OR pg_catalog.octet_length(_tables) > _document_bytes_max THEN
        _tables_left := _tables_left + 1;
        CONTINUE;
      END IF;
      -- A table that has a type is not locked when the type is changed: somebody else's lock takes away this table's
      -- description, and nothing else.
      BEGIN
        _described := (
{structure}
        );
      EXCEPTION WHEN OTHERS THEN
        _described := NULL;
        IF _tables_failed = '' THEN
          _tables_failed := 'Table ' || _relation::pg_catalog.regclass::pg_catalog.text || ' could not be recorded: ' || SQLERRM || '. ';
          -- Once is enough to wait.
          PERFORM pg_catalog.set_config('lock_timeout', '1ms', true);
        ELSE
          _tables_left := _tables_left + 1;
        END IF;
      END;
      IF _described IS NOT NULL THEN
        _tables_count := _tables_count + 1;
        _tables := _tables || CASE WHEN _tables = '' THEN '' ELSE ',' END || _described::text;
      END IF;
    END LOOP;
    _error := _error || _tables_failed;
    IF _tables_left > 0 THEN
      _error := _error || _tables_left::text || ' more tables are not described. ';
    END IF;
    IF pg_catalog.octet_length(_tables) > 2 * _document_bytes_max THEN
      _error := _error || 'The description of the tables is too large, and left out. ';
      _tables := '';
    END IF;
    _document := '{"tag":' || pg_catalog.to_json(TG_TAG)::text
      || ',"statement":' || pg_catalog.to_json(_statement)::text
      || ',"role":' || pg_catalog.to_json(current_user::text)::text
      || ',"objects":' || _objects::text
      || ',"dropped":' || _dropped::text
      || ',"tables":[' || _tables || ']'
      || ',"diverged":' || _diverged::text
      || ',"error":' || pg_catalog.to_json(pg_catalog.rtrim(_error))::text || '}';
    -- JSON is UTF-8, whatever the database's encoding is.
    PERFORM pg_catalog.pg_logical_emit_message(true, 'dbstreamd.ddl', pg_catalog.convert_to(_document, 'UTF8'));
  EXCEPTION WHEN OTHERS THEN
    IF TG_EVENT <> 'ddl_command_start' THEN
      _error := 'It could not be recorded whole (' || TG_EVENT || '): ' || SQLERRM;
      BEGIN
        PERFORM pg_catalog.pg_logical_emit_message(true, 'dbstreamd.ddl', pg_catalog.convert_to(
          pg_catalog.json_build_object('tag', TG_TAG, 'role', current_user::text, 'statement', coalesce(_statement, ''),
            'objects', _objects, 'dropped', _dropped, 'diverged', _diverged, 'error', _error)::text, 'UTF8'));
      EXCEPTION WHEN OTHERS THEN
        BEGIN
          PERFORM pg_catalog.pg_logical_emit_message(true, 'dbstreamd.ddl', pg_catalog.convert_to(
            pg_catalog.json_build_object('tag', TG_TAG, 'error', _error)::text, 'UTF8'));
        EXCEPTION WHEN OTHERS THEN
          NULL;
        END;
      END;
    END IF;
  END;
  -- A decoded message counts as standing where the record behind it begins. Were that a row of another subtransaction, the
  -- two could come in either order: so something stands between that is undone at once.
  BEGIN
    PERFORM pg_catalog.pg_logical_emit_message(true, 'dbstreamd.ddl', ''::bytea);
    RAISE EXCEPTION 'undone';
  EXCEPTION WHEN OTHERS THEN
    NULL;
  END;
END
$capture$;
COMMENT ON FUNCTION dbstreamd.capture_ddl() IS '{mark}';
DROP EVENT TRIGGER IF EXISTS dbstreamd_ddl_command_start;
DROP EVENT TRIGGER IF EXISTS dbstreamd_ddl_command_end;
DROP EVENT TRIGGER IF EXISTS dbstreamd_sql_drop;
DROP EVENT TRIGGER IF EXISTS dbstreamd_table_rewrite;
CREATE EVENT TRIGGER dbstreamd_ddl_command_start ON ddl_command_start WHEN TAG IN ('ALTER TABLE', 'DROP TABLE')
  EXECUTE FUNCTION dbstreamd.capture_ddl();
CREATE EVENT TRIGGER dbstreamd_ddl_command_end ON ddl_command_end EXECUTE FUNCTION dbstreamd.capture_ddl();
CREATE EVENT TRIGGER dbstreamd_sql_drop ON sql_drop EXECUTE FUNCTION dbstreamd.capture_ddl();
CREATE EVENT TRIGGER dbstreamd_table_rewrite ON table_rewrite EXECUTE FUNCTION dbstreamd.capture_ddl();
-- Also while session_replication_role is `replica`.
ALTER EVENT TRIGGER dbstreamd_ddl_command_start ENABLE ALWAYS;
ALTER EVENT TRIGGER dbstreamd_ddl_command_end ENABLE ALWAYS;
ALTER EVENT TRIGGER dbstreamd_sql_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER dbstreamd_table_rewrite ENABLE ALWAYS;
