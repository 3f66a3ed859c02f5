-- Records schema changes of this database for dbstreamd, as logical messages in the WAL of the transactions that make them.
-- Sent as one query, so that all of it happens or none. To be run again at any time; removal: see remove.sql.
SELECT pg_catalog.pg_advisory_xact_lock(7236831203714523511);
{owners}
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
-- No error in here makes the command fail: whatever goes wrong is said in the record, or not recorded. A cancel is the
-- command's, also when it comes while this runs (statement_timeout counts on): so all of it is bounded, and short.
DECLARE
  _statement_chars_max CONSTANT pg_catalog.int4 := 65536;
  _tables_max CONSTANT pg_catalog.int4 := 200;
  _objects_max CONSTANT pg_catalog.int4 := 1000;
  -- Some ten milliseconds' worth.
  _edges_max CONSTANT pg_catalog.int4 := 10000;
  _relations_max CONSTANT pg_catalog.int4 := 10000;
  _detail_chars_max CONSTANT pg_catalog.int4 := 2000;
  _document_bytes_max CONSTANT pg_catalog.int4 := 4194304;
  _query pg_catalog.text;
  _start pg_catalog.text;
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
  -- Tables whose rows became others without an event for each, and how; of each the name that is published is looked for.
  _lost pg_catalog.text := '';
  _lost_from pg_catalog.oid[] := '{}';
  _lost_how pg_catalog.text[] := '{}';
  _published_schemas pg_catalog.text[] := '{}';
  _moved record;
  _unsure pg_catalog.bool := false;
  _partitions_moved pg_catalog.bool := false;
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
      IF (TG_TAG = 'ALTER TABLE' AND (pg_catalog.octet_length(_query) > _statement_chars_max
          OR _query ~* '(at|de)tach' OR _query !~* '^\s*alter\s'))
        OR (TG_TAG <> 'ALTER TABLE' AND EXISTS (SELECT 1 FROM pg_catalog.pg_publication p WHERE p.pubviaroot))
      THEN
        SELECT pg_catalog.count(*), 'known,' || coalesce(pg_catalog.string_agg(e.part::text || '>' || e.parent::text, ','), '')
        INTO _count, _edges
        FROM (SELECT h.inhrelid, h.inhparent FROM pg_catalog.pg_inherits h
          JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid WHERE c.relispartition LIMIT _edges_max + 1) e(part, parent);
        IF _count > _edges_max THEN
          _edges := 'many';
        END IF;
      END IF;
      PERFORM pg_catalog.set_config('dbstreamd.partitions', _edges, false);
      RETURN;
    END IF;

    -- Connection strings and passwords are nobody's business; the command's tag and objects are recorded all the same. It is
    -- the whole string that was sent, so a secret of another command in it counts, too; and some of what follows the cut, as
    -- what ends a password may stand there.
    _start := pg_catalog.left(_query, _statement_chars_max + 4096);
    _statement := CASE
      WHEN TG_TAG ~ 'SUBSCRIPTION|USER MAPPING|SERVER'
        OR _start ~* '\m(subscription|user\s+mapping|(create|alter)\s+server)\M|\moptions\M\s*(\(|/\*|--)'
        OR _start ~* 'passw(or)?d\M["'']?\s*(=|:|to\M|e?''|u&''|\$|/\*|--)'
        OR _start ~* '(secret|token|credentials?|passphrase|(api|access|private)_?key)\M["'']?\s*(=>|:?=|:|to\M)\s*(e?''|u&''|"|\$[a-z_]*\$)'
        OR _start ~* '://[^\s/@:]*:[^\s@]*@' THEN ''
      WHEN _start <> _query OR pg_catalog.length(_start) > _statement_chars_max THEN
        pg_catalog.left(_start, _statement_chars_max) || ' [cut: ' || pg_catalog.octet_length(_query)::text || ' bytes in all]'
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
          SELECT pg_catalog.array_agg(s.oid ORDER BY s.oid) FROM (
            SELECT c.oid FROM pg_catalog.pg_event_trigger_ddl_commands() d
            JOIN pg_catalog.pg_class c ON c.relnamespace = d.objid
            WHERE d.classid = 'pg_catalog.pg_namespace'::regclass AND c.relkind IN ('r', 'p', 'f') LIMIT _relations_max) s), '{}');
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
        SELECT _relations || coalesce(pg_catalog.array_agg(DISTINCT u.attrelid), '{}') INTO _relations
        FROM (SELECT a.attrelid FROM built JOIN pg_catalog.pg_attribute a ON a.atttypid = built.type_oid
          WHERE a.attnum > 0 AND NOT a.attisdropped LIMIT _relations_max) u;
      END IF;

      -- Partitions that came or went.
      _edges := coalesce(pg_catalog.current_setting('dbstreamd.partitions', true), '');
      IF _edges = 'many' THEN
        _error := _error || 'More than ' || _edges_max::text
          || ' partitions: whether one was attached or detached was not looked at. ';
      ELSIF TG_TAG = 'ALTER TABLE' AND _edges <> '' THEN
        FOR _moved IN
          WITH before AS (
            SELECT pg_catalog.split_part(e.edge, '>', 1)::oid AS part, pg_catalog.split_part(e.edge, '>', 2)::oid AS parent
            FROM pg_catalog.unnest(pg_catalog.string_to_array(_edges, ',')) AS e(edge) WHERE e.edge LIKE '%>%'
          ), after AS (
            SELECT h.inhrelid AS part, h.inhparent AS parent
            FROM pg_catalog.pg_inherits h JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid
            WHERE c.relispartition AND h.inhparent = ANY (_relations)
          ), moved AS (
            (SELECT b.part, b.parent, 'detached' AS what FROM before b EXCEPT SELECT a.part, a.parent, 'detached' FROM after a)
            UNION ALL
            (SELECT a.part, a.parent, 'attached' FROM after a EXCEPT SELECT b.part, b.parent, 'attached' FROM before b)
          )
          SELECT m.part, m.parent, pg_catalog.format('%I.%I was %s', n.nspname, c.relname, m.what) AS how
          FROM moved m
          JOIN pg_catalog.pg_class c ON c.oid = m.part JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE m.parent = ANY (_relations) ORDER BY m.part LIMIT _relations_max
        LOOP
          _relations := _relations || _moved.part;
          _partitions_moved := true;
          -- Partitions of the partition may be locked by somebody. What was not looked at once may hold rows from then on.
          IF NOT _unsure THEN
            BEGIN
              -- What was detached, and has no partitions of its own, has no tree.
              IF coalesce((SELECT pg_catalog.sum(pg_catalog.pg_relation_size(l.relid))
                FROM pg_catalog.pg_partition_tree(_moved.part) l WHERE l.isleaf), pg_catalog.pg_relation_size(_moved.part)) = 0
              THEN
                CONTINUE;
              END IF;
            EXCEPTION WHEN OTHERS THEN
              _unsure := true;
            END;
          END IF;
          _lost := 'partition_moved';
          _lost_from := _lost_from || _moved.parent;
          _lost_how := _lost_how || _moved.how;
        END LOOP;
      END IF;
      PERFORM pg_catalog.set_config('dbstreamd.partitions', '', false);

      -- A change of a table is a change of what inherits from it; but what comes or goes leaves its siblings, which are
      -- locked by nobody for it, as they are.
      IF NOT _partitions_moved THEN
        WITH RECURSIVE family(oid, depth) AS (
          SELECT DISTINCT r.oid, 0 FROM pg_catalog.unnest(_relations) AS r(oid)
          UNION
          SELECT h.inhrelid, f.depth + 1 FROM family f JOIN pg_catalog.pg_inherits h ON h.inhparent = f.oid
        )
        SELECT coalesce(pg_catalog.array_agg(m.oid ORDER BY m.depth, m.oid), '{}') INTO _relations
        FROM (SELECT f.oid, pg_catalog.min(f.depth) AS depth
          FROM (SELECT * FROM family LIMIT _relations_max) f GROUP BY f.oid) m;
        IF pg_catalog.cardinality(_relations) >= _relations_max THEN
          _error := _error || 'More than ' || _relations_max::text || ' tables are concerned: the rest is not looked at. ';
        END IF;
      END IF;

    ELSIF TG_EVENT = 'sql_drop' THEN
      WITH gone AS (
        SELECT d.*, pg_catalog.row_number() OVER () AS place FROM pg_catalog.pg_event_trigger_dropped_objects() d
        WHERE NOT d.is_temporary AND coalesce(d.schema_name, '') !~ '^(pg_temp|pg_toast|dbstreamd$)'
          AND NOT (d.object_type = 'schema' AND coalesce(d.object_name, '') = 'dbstreamd')
          AND d.object_type NOT IN ('toast table', 'event trigger')
      ), said AS (
        -- A table's row type goes with it, and so do the triggers of its foreign keys.
        SELECT g.* FROM gone g
        WHERE NOT (g.object_type = 'type' AND coalesce(pg_catalog.regexp_replace(g.object_identity, '\[\]$', ''), '') IN (
          SELECT coalesce(r.object_identity, '?') FROM gone r
          WHERE r.classid = 'pg_catalog.pg_class'::regclass AND r.objsubid = 0))
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
      _relations := _relations[1:_relations_max];
      -- Rows of a partition that is dropped are gone from its root, too; how many they were cannot be seen any more.
      _edges := coalesce(pg_catalog.current_setting('dbstreamd.partitions', true), '');
      IF _edges = 'many' THEN
        _error := _error || 'More than ' || _edges_max::text
          || ' partitions: whether one was dropped was not looked at. ';
      ELSIF _edges <> '' THEN
        _lost := 'partition_moved';
        SELECT coalesce(pg_catalog.array_agg(r.parent), '{}'), coalesce(pg_catalog.array_agg(r.shown || ' was dropped'), '{}')
        INTO _lost_from, _lost_how
        FROM (
          SELECT b.parent, pg_catalog.left(pg_catalog.string_agg(DISTINCT d.object_identity, ', '), _detail_chars_max) AS shown
          FROM pg_catalog.pg_event_trigger_dropped_objects() d
          JOIN (SELECT pg_catalog.split_part(e.edge, '>', 1)::oid AS part, pg_catalog.split_part(e.edge, '>', 2)::oid AS parent
            FROM pg_catalog.unnest(pg_catalog.string_to_array(_edges, ',')) AS e(edge) WHERE e.edge LIKE '%>%') b
            ON b.part = d.objid AND d.classid = 'pg_catalog.pg_class'::regclass AND d.objsubid = 0
          JOIN pg_catalog.pg_class parent ON parent.oid = b.parent AND parent.relkind = 'p'
          GROUP BY b.parent
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
      _lost := 'rewritten';
      _lost_from := ARRAY[_relation];
      _lost_how := ARRAY[CASE WHEN _reason & 4 <> 0 THEN 'the values of a column were converted to another type'
        ELSE 'a column was added whose values were computed for each row' END];
    ELSE
      RETURN;
    END IF;

    IF pg_catalog.cardinality(_lost_from) > 0 THEN
      -- Should what follows fail, each name is said that it may have in the stream, of no publication, which stands for any:
      -- one too many on the list is better than one too few.
      SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
        'schema', n.nspname, 'table', c.relname, 'reason', _lost,
        'detail', f.how || ', without an event for each row; whether it is published could not be looked up',
        'publications', '[]'::json)), '[]')
      INTO _diverged
      FROM ROWS FROM (pg_catalog.unnest(_lost_from), pg_catalog.unnest(_lost_how)) AS f(relid, how)
      CROSS JOIN LATERAL (SELECT f.relid UNION SELECT x.relid::oid FROM pg_catalog.pg_partition_ancestors(f.relid) x) a(relid)
      JOIN pg_catalog.pg_class c ON c.oid = a.relid AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;
      -- From 15 on. Until then this is never planned.
      IF pg_catalog.to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL THEN
        SELECT coalesce(pg_catalog.array_agg(s.pnpubid::text || ' ' || s.pnnspid::text), '{}') INTO _published_schemas
        FROM pg_catalog.pg_publication_namespace s;
      END IF;
      -- From the catalogs alone: pg_get_publication_tables() locks every table of a publication. Where partitions are
      -- published under a root, that is the topmost of their ancestors that the publication has; else they are by themselves.
      WITH chain AS (
        SELECT f.place, f.relid AS leaf, f.how, a.relid, a.level, c.relnamespace
        FROM ROWS FROM (pg_catalog.unnest(_lost_from), pg_catalog.unnest(_lost_how)) WITH ORDINALITY AS f(relid, how, place)
        CROSS JOIN LATERAL (SELECT f.relid, 1::int8 UNION
          SELECT x.relid::oid, x.level FROM pg_catalog.pg_partition_ancestors(f.relid) WITH ORDINALITY AS x(relid, level)
        ) a(relid, level)
        JOIN pg_catalog.pg_class c ON c.oid = a.relid AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
      ), published AS (
        SELECT DISTINCT ON (k.place, p.oid) k.leaf, k.how, p.pubname, CASE WHEN p.pubviaroot THEN k.relid ELSE k.leaf END AS relid
        FROM chain k JOIN pg_catalog.pg_publication p ON p.puballtables
          OR EXISTS (SELECT 1 FROM pg_catalog.pg_publication_rel r WHERE r.prrelid = k.relid AND r.prpubid = p.oid)
          OR p.oid::text || ' ' || k.relnamespace::text = ANY (_published_schemas)
        WHERE p.pubviaroot OR _lost = 'rewritten'
        ORDER BY k.place, p.oid, k.level DESC
      ), named AS (
        SELECT n.nspname, c.relname, pg_catalog.json_agg(DISTINCT p.pubname::text) AS publications,
          pg_catalog.left(pg_catalog.string_agg(DISTINCT p.how || CASE WHEN _lost = 'rewritten' AND p.leaf <> p.relid
            THEN ' in partition ' || p.leaf::regclass::text ELSE '' END, ', '), _detail_chars_max) AS how
        FROM published p JOIN pg_catalog.pg_class c ON c.oid = p.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        GROUP BY c.oid, n.nspname, c.relname
      )
      SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
        'schema', d.nspname, 'table', d.relname, 'reason', _lost,
        'detail', CASE _lost WHEN 'rewritten' THEN '' ELSE 'partition ' END || d.how || ', without an event for each row',
        'publications', d.publications)), '[]')
      INTO _diverged FROM named d;
    END IF;
    -- That is all there is to say of it.
    IF TG_EVENT = 'table_rewrite' AND _diverged::text = '[]' THEN
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
-- Who made the schema or the function between the first look and ours undoes all of this.
{owners}
