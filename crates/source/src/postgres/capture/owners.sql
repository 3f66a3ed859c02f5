-- What stands under our names and is somebody else's could become anything later, in everybody's commands.
DO $owners$
DECLARE
  _what pg_catalog.text;
  _owner pg_catalog.name;
BEGIN
  SELECT o.what, pg_catalog.pg_get_userbyid(o.owner) INTO _what, _owner
  FROM (
    SELECT 'schema dbstreamd', n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname = 'dbstreamd'
    UNION ALL
    SELECT 'function dbstreamd.capture_ddl', p.proowner FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'dbstreamd' AND p.proname = 'capture_ddl'
  ) o(what, owner)
  WHERE pg_catalog.pg_get_userbyid(o.owner) <> current_user
    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.oid = o.owner AND r.rolsuper)
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = pg_catalog.format('%s belongs to role %I, who is neither a superuser nor %I: nothing is installed into it',
        _what, _owner, current_user),
      HINT = 'Have a superuser look at what is in it, run DROP SCHEMA dbstreamd CASCADE, and install again.';
  END IF;
END
$owners$;
