"""A reverse proxy in front of the relay: what of HTTP it lets through, as nginx's configuration.

It is of use where the coordinator's host is the consortium's public face. It ends TLS with the
relay's own certificate, which is the only one that nodes accept, and lets through what nodes ask
for; everything else gets its 404 from here. The port of the server's link is no HTTP: it stays
beside the proxy, or is passed on byte by byte.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from pathlib import Path
from string import Template

from sealtune.errors import ConfigError, Problem

OPERATIONS = (
    "activate-node",
    "confirm-message-received",
    "pull-messages",
    "pull-object",
    "push-messages",
    "push-object",
    "send-node-heartbeat",
)  # all that ``federation.fleet`` serves

_NGINX = Template("""\
# Reverse proxy before a relay of sealtune, to be included in nginx's http { }.
# It ends TLS with the relay's own certificate, the only one that the sites' nodes accept, and lets
# POST of $count operations through. What it sees is sealed.

limit_conn_zone $$binary_remote_addr zone=sealtune:1m;

upstream sealtune_relay {
    server $relay;
    keepalive 64;
}

server {
    listen $listen ssl;
    server_name $name;
    server_tokens off;
    access_log off;

    ssl_certificate $certificate;
    ssl_certificate_key $key;
    ssl_protocols TLSv1.3;

    keepalive_timeout 75s;          # nodes let go after 60
    client_max_body_size 9m;        # the relay takes 8 MiB and a little
    client_header_buffer_size 4k;
    large_client_header_buffers 4 8k;
    client_body_timeout 120s;       # without a byte: a link may be cut for a while
    send_timeout 120s;
    limit_conn sealtune 32;

    location / {
        return 404;
    }

    location ~ ^/v1/fleet/($operations)$$ {
        if ($$request_method != POST) {
            return 404;
        }
        proxy_pass https://sealtune_relay;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_trusted_certificate $certificate;
        proxy_ssl_verify on;
        proxy_ssl_name $name;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $$host;
        proxy_request_buffering off;    # nothing is written to this disk
        proxy_max_temp_file_size 0;
        proxy_buffers 16 32k;
        proxy_read_timeout 120s;        # a question for messages is kept for 15
        proxy_send_timeout 120s;
    }
}
""")


def nginx(listen: str, name: str, relay: str, certificate: Path, key: Path) -> str:
    """The configuration.

    Args:
        listen: where nodes come in, as nginx writes it: ``443`` or ``203.0.113.5:443``.
        name: the host of ``network.sites_at``; the certificate has it.
        relay: where the relay listens, ``host:port``.
        certificate, key: files of the relay's.

    Raises:
        ConfigError: a path that nginx would read as something else.
    """
    return _NGINX.substitute(
        count=len(OPERATIONS),
        listen=listen,
        name=name,
        relay=relay,
        certificate=_word(certificate),
        key=_word(key),
        operations="|".join(OPERATIONS),
    )


def _word(path: Path) -> str:
    text = str(path)
    if not text.isprintable() or set(text) & set('"\\$'):
        raise ConfigError("deploy render", [Problem(repr(text), "cannot stand in nginx's file")])
    return f'"{text}"' if set(text) & set(" ';{}#") else text
