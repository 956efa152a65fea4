"""gRPC without generated code: messages are plain bytes.

`serve [CERT KEY]` prints its address; `call ADDRESS [CA NAME]` calls each method and prints what came, as JSON.
"""

import json
import sys
from concurrent import futures

import grpc


def say(message, context):
    seen = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-trailer", "t-" + seen.get("x-ask", "none")),))
    return b"hello " + message


def count(message, context):
    for i in range(int(message)):
        yield str(i).encode()
    context.set_trailing_metadata((("x-count", message.decode()),))


def refuse(message, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")


def collect(messages, context):
    return b"+".join(messages)


def check(message, context):
    """grpc.health.v1: field 1 of the request is the service, of the answer the status."""
    service = message[2:].decode()
    if service not in ("", "sick"):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
    return b"\x08\x02" if service == "sick" else b"\x08\x01"


def serve(cert=None, key=None):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
    }
    health = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler("test.Echo", methods),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
    ))
    if cert is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        with open(cert, "rb") as chain, open(key, "rb") as private:
            credentials = grpc.ssl_server_credentials([(private.read(), chain.read())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()


def call(address, ca=None, name=None):
    if ca is None:
        channel = grpc.insecure_channel(address)
    else:
        with open(ca, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        options = (("grpc.ssl_target_name_override", name),)
        channel = grpc.secure_channel(address, credentials, options)
    answers = {}
    unary = channel.unary_unary("/test.Echo/Say")
    answer, end = unary.with_call(b"world", timeout=10, metadata=(("x-ask", "42"),))
    answers["say"] = [answer.decode(), end.code().name, dict(end.trailing_metadata()).get("x-trailer")]
    large = b"x" * 1_000_000
    answers["large"] = len(unary(large, timeout=10))
    stream = channel.unary_stream("/test.Echo/Count")(b"100", timeout=10)
    items = [int(item) for item in stream]
    answers["count"] = [items == list(range(100)), stream.code().name,
                        dict(stream.trailing_metadata()).get("x-count")]
    answers["collect"] = channel.stream_unary("/test.Echo/Collect")(
        iter([b"a", b"b", b"c"]), timeout=10).decode()
    try:
        channel.unary_unary("/test.Echo/Refuse")(b"", timeout=10)
        answers["refuse"] = "no error"
    except grpc.RpcError as error:
        answers["refuse"] = [error.code().name, error.details()]
    print(json.dumps(answers))


if sys.argv[1] == "serve":
    serve(*sys.argv[2:])
else:
    call(*sys.argv[2:])
