"""Clients of a program that is told to end: grpcio channels and HTTP/1.1 connections that are kept alive, one request after the other.
A request that fails although the client honours `connection: close` and GOAWAY is a failure; a new connection that is refused is
not. Usage: drain_clients.py PROGRAM FOLDER ROUNDS; prints one line for each round and exits 1 after a failure."""
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one write for head and body, or Nagle waits 40 ms for each

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "3")
        self.end_headers()
        self.wfile.write(b"app")

    def log_message(self, *_):
        pass


def upstreams(folder):
    app = ThreadingHTTPServer(("127.0.0.1", 0), App)
    app.daemon_threads = True
    threading.Thread(target=app.serve_forever, daemon=True).start()
    server = grpc.server(futures.ThreadPoolExecutor(16))
    servicer = health.HealthServicer()
    servicer.set("alive", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    mapping = "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: {0}}}\nspec: {{hostname: '*', {1}}}\n"
    with open(f"{folder}/drain.yaml", "w") as manifests:
        manifests.write(mapping.format("app", f"prefix: /, service: '127.0.0.1:{app.server_port}'"))
        manifests.write(mapping.format("grpc", f"prefix: /grpc., rewrite: '', grpc: true, service: '127.0.0.1:{port}'"))
    return server


def call_grpc(address, seen):
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]))
    while True:
        try:
            stub.Check(health_pb2.HealthCheckRequest(service="alive"), timeout=5)
            seen["grpc ok"] += 1
        except grpc.RpcError as error:
            if "refused" not in error.details() and "Failed to connect" not in error.details():
                seen[f"failed: grpc {error.code()} {error.details()}"] += 1
            return


def call_http(address, seen):
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.connect()
    while True:
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            complete = response.read() == b"app" and response.status == 200
        except OSError as error:
            seen[f"failed: http {error!r}"] += 1
            return
        except http.client.HTTPException as error:
            seen[f"failed: http {error!r}"] += 1
            return
        seen["http ok" if complete else f"failed: http {response.status}"] += 1
        if response.getheader("connection", "").lower() == "close":
            return


def round_of(program, folder):
    ready = f"{folder}/drain.ready"
    if os.path.exists(ready):
        os.remove(ready)
    flags = ["--manifests", f"{folder}/drain.yaml", "--bind", "127.0.0.1", "--http-port", "0", "--admin", "127.0.0.1:0", "--ready-file", ready]
    with open(f"{folder}/drain.access", "a") as out, open(f"{folder}/drain.err", "a") as err:
        ingress = subprocess.Popen([program, "run", *flags], stdout=out, stderr=err)
    deadline = time.monotonic() + 20
    while not os.path.exists(ready):
        assert ingress.poll() is None and time.monotonic() < deadline, "it does not start"
        time.sleep(0.01)
    with open(ready) as file:
        address = json.load(file)["listeners"]["http"]
    seen = Counter()
    clients = [threading.Thread(target=client, args=(address, seen)) for client in (call_grpc, call_http) for _ in range(4)]
    for client in clients:
        client.start()
    while min(seen["grpc ok"], seen["http ok"]) < 200 and time.monotonic() < deadline:
        time.sleep(0.01)
    ingress.send_signal(signal.SIGTERM)
    seen["exit status"] = ingress.wait(60)
    for client in clients:
        client.join(20)
    return seen


def main(program, folder, rounds):
    server, bad = upstreams(folder), 0
    for _ in range(int(rounds)):
        seen = round_of(program, folder)
        failed = sum(count for what, count in seen.items() if what.startswith("failed"))
        bad += failed + seen["exit status"] + (min(seen["grpc ok"], seen["http ok"]) < 200)
        print(f"failed={failed} exit={seen['exit status']} {dict(seen)}", flush=True)
    server.stop(0)
    sys.exit(1 if bad else 0)


main(*sys.argv[1:])
