#!/usr/bin/env python3
"""A consumer of dbstreamd in Python: subscribes under a name, prints changes as JSON, commits what it printed.

    python3 -m venv venv && venv/bin/pip install -r examples/python/requirements.txt
    venv/bin/python examples/python/subscribe.py --consumer my-service

Run it again, and it goes on behind the last change it committed. Nothing here is special to dbstreamd's own code:
the client is generated from proto/dbstreamd/v1/dbstreamd.proto by gRPC's standard tools.
"""

import argparse
import hashlib
import importlib
import json
import os
import pathlib
import queue
import sys
import tempfile

import grpc

PROTO_ROOT = pathlib.Path(__file__).resolve().parents[2] / "proto"
PROTO = "dbstreamd/v1/dbstreamd.proto"


def generate():
    """Generates the client once per version of the proto file, into the user's cache folder, and imports it."""
    content = (PROTO_ROOT / PROTO).read_bytes() + grpc.__version__.encode()
    version = hashlib.sha256(content).hexdigest()[:16]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = cache / "dbstreamd" / "python-client" / version
    if not folder.exists():
        from grpc_tools import protoc

        folder.parent.mkdir(parents=True, exist_ok=True)
        # Made aside and moved into place, so that two that start together do not see half of it.
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            flags = [f"-I{PROTO_ROOT}", f"--python_out={made}", f"--grpc_python_out={made}"]
            if protoc.main(["protoc", *flags, str(PROTO_ROOT / PROTO)]) != 0:
                sys.exit("error: could not generate the client from " + PROTO)
            try:
                os.rename(made, folder)
                os.mkdir(made)
            except OSError:
                if not folder.exists():
                    raise
    sys.path.insert(0, str(folder))
    package = "dbstreamd.v1.dbstreamd_pb2"
    return importlib.import_module(package), importlib.import_module(package + "_grpc")


def column_values(schema, row, only_identity=False):
    """A row as a dict of column name to text, leaving out what the source did not send."""
    values = {}
    for column, cell in zip(schema.columns, row.cells, strict=True):
        kind = cell.WhichOneof("value")
        if kind == "unchanged" or (only_identity and not column.in_identity):
            continue
        values[column.name] = cell.text.decode() if kind == "text" else cell.binary.hex() if kind == "binary" else None
    return values


def as_dict(pb, event, schemas):
    """An event as dbstreamd's own JSON shows it, its main fields."""
    shown = {"offset": event.offset, "op": pb.Operation.Name(event.operation).removeprefix("OPERATION_").lower()}
    schema = schemas.get(event.fingerprint)
    shown["schema"] = schema.schema if schema else None
    shown["table"] = schema.table if schema else None
    has = event.HasField
    shown["before"] = column_values(schema, event.before, not event.before_is_full) if has("before") else None
    shown["after"] = column_values(schema, event.after) if has("after") else None
    if has("message"):
        shown["prefix"], shown["content"] = event.message.prefix.decode(errors="replace"), event.message.content.decode(errors="replace")
    return shown


def main():
    parser = argparse.ArgumentParser(description="Prints and commits changes of a dbstreamd stream.")
    parser.add_argument("--server", default="127.0.0.1:7400", help="gRPC address (default: %(default)s)")
    parser.add_argument("--stream", default="", help="stream name; not needed when there is only one")
    parser.add_argument("--consumer", default="python-example", help="name under which the position is kept")
    parser.add_argument("--limit", type=int, default=0, help="end after so many changes")
    arguments = parser.parse_args()
    pb, pb_grpc = generate()

    # What we send: the start, then acknowledgements. None ends it.
    requests = queue.SimpleQueue()
    start = pb.Start(stream=arguments.stream, consumer=arguments.consumer, credit_events=arguments.limit)
    requests.put(pb.SubscribeRequest(start=start))

    # One change can be as large as PostgreSQL's largest row.
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(arguments.server.removeprefix("http://"), options=options) as channel:
        client = pb_grpc.StreamsStub(channel)
        schemas, stream, left = {}, arguments.stream, arguments.limit
        for response in client.Subscribe(iter(requests.get, None)):
            kind = response.WhichOneof("response")
            if kind == "started":
                stream = response.started.stream
            elif kind == "schema":
                schemas[response.schema.fingerprint] = response.schema
            elif kind == "events":
                for event in response.events.events:
                    print(json.dumps(as_dict(pb, event, schemas)))
                sys.stdout.flush()
                # Only now is it processed. Acknowledging is cheap and durable soon after.
                done = response.events.events[-1].offset
                requests.put(pb.SubscribeRequest(acknowledge=pb.Acknowledge(offset=done)))
                left -= len(response.events.events)
                if arguments.limit and left <= 0:
                    # Before we leave, make sure: this one returns when the position is on disk.
                    commit = pb.CommitOffsetRequest(stream=stream, consumer=arguments.consumer, offset=done)
                    client.CommitOffset(commit)
                    break
        requests.put(None)


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"error: {error.details()}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
