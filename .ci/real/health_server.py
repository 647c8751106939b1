"""A gRPC server of the reference implementation: health and reflection over mTLS. Usage: health_server.py ADDR CERT KEY CLIENT_CA"""
import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

addr, cert, key, ca = sys.argv[1:]
read = lambda path: open(path, "rb").read()
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
servicer = health.HealthServicer()
servicer.set("alive", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
reflection.enable_server_reflection((health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), server)
server.add_secure_port(addr, grpc.ssl_server_credentials([(read(key), read(cert))], read(ca), require_client_auth=True))
server.start()
server.wait_for_termination()
