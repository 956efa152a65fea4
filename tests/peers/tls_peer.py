"""An origin that speaks HTTP/1.1 over TLS and answers with what it saw, as JSON.

`CERT KEY [CLIENT_CA]`: with an authority, clients must show a certificate. Prints its address.
"""

import json
import socket
import ssl
import sys
import threading


def serve(context, names, plain):
    try:
        with context.wrap_socket(plain, server_side=True) as stream:
            certificate = stream.getpeercert() or {}
            subject = dict(pair for part in certificate.get("subject", ()) for pair in part)
            file = stream.makefile("rb")
            while line := file.readline():
                while file.readline() not in (b"\r\n", b""):
                    pass
                seen = {
                    "target": line.split()[1].decode(),
                    "sni": names.get(stream),
                    "alpn": stream.selected_alpn_protocol(),
                    "client": subject.get("commonName"),
                    "tls": stream.version(),
                }
                body = json.dumps(seen).encode()
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    except (ssl.SSLError, ConnectionError):
        pass  # Whoever is refused leaves.


def main(cert, key, client_ca=None):
    names = {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["http/1.1"])
    context.sni_callback = lambda stream, name, _: names.update({stream: name})
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))
    print("{}:{}".format(*listener.getsockname()), flush=True)
    while True:
        plain, _ = listener.accept()
        threading.Thread(target=serve, args=(context, names, plain), daemon=True).start()


main(*sys.argv[1:])
