DROP EVENT TRIGGER IF EXISTS dbstreamd_ddl_command_start;
DROP EVENT TRIGGER IF EXISTS dbstreamd_ddl_command_end;
DROP EVENT TRIGGER IF EXISTS dbstreamd_sql_drop;
DROP EVENT TRIGGER IF EXISTS dbstreamd_table_rewrite;
DROP FUNCTION IF EXISTS dbstreamd.capture_ddl();
DROP SCHEMA IF EXISTS dbstreamd;
