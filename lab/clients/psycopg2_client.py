"""psycopg2's replication cursor with a consumer that counts rows and does nothing else.

Arguments, as JSON: dsn, slot, publication, last_commit_lsn. Prints {"rows": …} once that commit has come. PGPASSWORD is
the password.
"""

import json
import sys

import psycopg2.extras

arguments = json.loads(sys.argv[1])
last_commit_lsn = arguments["last_commit_lsn"]
rows = 0


class Done(Exception):
    pass


def consume(message):
    global rows
    payload = message.payload
    tag = payload[0]
    if tag == 73 or tag == 85 or tag == 68:  # I, U, D
        rows += 1
    elif tag == 67 and int.from_bytes(payload[10:18], "big") >= last_commit_lsn:  # C: flags, start, end
        raise Done


connection = psycopg2.connect(arguments["dsn"], connection_factory=psycopg2.extras.LogicalReplicationConnection)
cursor = connection.cursor()
options = {"proto_version": "1", "publication_names": arguments["publication"]}
cursor.start_replication(slot_name=arguments["slot"], decode=False, options=options, status_interval=10)
try:
    cursor.consume_stream(consume)
except Done:
    pass
print(json.dumps({"rows": rows}))
