"""A configuration as a shop has it: several hundred lines, nested includes, maps, upstreams, TLS, regex locations, Lua."""

from __future__ import annotations

ROOT = "/usr/local/nginx/conf"

MAIN = """\
# the shop's front, 2024
user  www-data;
worker_processes  2;
pid  logs/nginx.pid;
error_log  logs/error.log  notice;

events {
    worker_connections  1024;
    multi_accept        on;
}

http {
    include       mime.types;
    default_type  application/octet-stream;

    log_format  main  '$remote_addr - $remote_user [$time_local] "$request" '
                      '$status $body_bytes_sent "$http_referer"';
    access_log  logs/access.log  main;

    sendfile           on;
    tcp_nopush         on;
    keepalive_timeout  65s;
    gzip               on;
    gzip_types         text/css application/json
                       application/javascript image/svg+xml;

    limit_req_zone  $binary_remote_addr  zone=login:10m  rate=5r/m;
    limit_conn_zone $binary_remote_addr  zone=perip:10m;
    proxy_cache_path  /var/cache/shop  levels=1:2  keys_zone=shop:10m  max_size=1g  inactive=60m;

    include  maps/*.conf;
    include  upstreams.conf;
    include  vhosts/*.conf;
}
"""

MAPS = """\
map $http_upgrade $connection_upgrade {
    default  upgrade;
    ''       close;
}

map $host $backend {
    hostnames;
    default            pool_main;
    *.api.shop.test    pool_api;
    ~^beta\\d+\\.       pool_beta;
    ~^beta             pool_main;
    static.shop.test   pool_static;
}

geo $limited {
    default         1;
    10.0.0.0/8      0;
    192.168.0.0/16  0;
}

map $http_x_api_key $api_client {
    default        "";
    "TOPSECRET-1"  partner;
}
"""

UPSTREAMS = """\
upstream pool_main {
    least_conn;
    server 127.0.0.1:9001 weight=3 max_fails=2;
    server 127.0.0.1:9002;
    server 127.0.0.1:9003 backup;
    keepalive 32;
}

upstream pool_api {
    ip_hash;
    server 127.0.0.1:9101;
    server 127.0.0.1:9102;
    server 127.0.0.1:9103;
}

upstream pool_static { server 127.0.0.1:9201; }
upstream pool_beta   { server 127.0.0.1:9301; }
"""

PROXY = """\
proxy_http_version 1.1;
proxy_set_header Host              $host;
proxy_set_header X-Real-IP         $remote_addr;
proxy_set_header X-Forwarded-For   $proxy_add_x_forwarded_for;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header Upgrade           $http_upgrade;
proxy_set_header Connection        $connection_upgrade;
proxy_read_timeout 60s;
"""

TLS = """\
ssl_protocols TLSv1.2 TLSv1.3;
ssl_session_cache shared:tls:10m;
ssl_session_timeout 1d;
ssl_prefer_server_ciphers off;
add_header Strict-Transport-Security "max-age=63072000" always;
"""

HIDDEN = """\
location ~ /\\.(?!well-known) {
    deny all;
}
"""

SHOP = """\
# the shop itself
server {
    listen 80;
    listen [::]:80;
    server_name shop.test www.shop.test;
    location /.well-known/acme-challenge/ {
        root html/acme;
    }
    location / {
        return 301 https://shop.test$request_uri;
    }
}

server {
    listen 443 ssl http2;
    listen [::]:443 ssl http2;
    server_name shop.test www.shop.test;

    ssl_certificate      certs/shop.pem;
    ssl_certificate_key  certs/shop.key;
    include snippets/tls.conf;

    root  html/shop;
    index index.html index.php;

    if ($host = www.shop.test) {
        return 301 https://shop.test$request_uri;
    }
    set $section front;
    rewrite ^/old/(.*)$ /new/$1 permanent;
    rewrite ^/new/(\\d+)$ /item?id=$1 last;

    include snippets/hidden.conf;

    location / {
        try_files $uri $uri/ @backend;
    }

    location @backend {
        include snippets/proxy.conf;
        proxy_pass http://$backend;
    }

    location = /login {
        limit_req zone=login burst=3 nodelay;
        include snippets/proxy.conf;
        proxy_pass http://pool_main;
    }

    location ~ \\.php$ {
        fastcgi_pass unix:/run/php/php-fpm.sock;
        fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
        fastcgi_param HTTPS on;
    }

    location ~ ^/media/.*\\.(?:jpg|png|webp)$ {
        expires 30d;
        add_header Cache-Control "public, immutable";
        access_log off;
    }

    location ~* \\.(?:css|js|php)$ {
        expires 7d;
    }

    location /admin/ {
        satisfy any;
        allow 10.0.0.0/8;
        deny all;
        auth_basic "admins; only";
        auth_basic_user_file admins;
        include snippets/proxy.conf;
        proxy_pass http://pool_main;
        proxy_set_header Authorization "Basic VE9QU0VDUkVU";
    }

    error_page 404 /404.html;
    error_page 500 502 503 504 /50x.html;
}
"""

API = """\
server {
    listen 443 ssl http2;
    server_name api.shop.test;
    ssl_certificate      certs/api.pem;
    ssl_certificate_key  certs/api.key;
    include snippets/tls.conf;

    location /v1/ {
        limit_conn perip 20;
        include snippets/proxy.conf;
        proxy_pass http://pool_api/;
    }

    location /v2/ {
        if ($api_client = "") {
            return 403;
        }
        include snippets/proxy.conf;
        proxy_pass http://pool_api/v2/;
        proxy_cache shop;
        proxy_cache_valid 200 10m;
    }
}
"""

LUA = """\
server {
    listen 8080;
    server_name lua.shop.test;
    location /hello {
        content_by_lua_block {
            -- a brace in a comment: }
            local text = "it's { fine }"
            ngx.say(text)
        }
    }
    location /plain {
        return 200 "plain\\n";
    }
}
"""


def vhost(number: int) -> str:
    return f"""\
server {{
    listen 80;
    server_name site{number}.test *.site{number}.test;
    root html/site{number};
    access_log logs/site{number}.log main;

    include snippets/hidden.conf;

    location / {{
        try_files $uri $uri/ /index.html;
    }}
    location /api/ {{
        include snippets/proxy.conf;
        proxy_pass http://pool_main/site{number}/;
    }}
}}
"""


def files(*, lua: bool = True) -> dict[str, str]:
    """Absolute path to text."""
    named = {
        "nginx.conf": MAIN,
        "mime.types": "types {\n    text/html html htm;\n    text/css css;\n    image/webp webp;\n}\n",
        "maps/hosts.conf": MAPS,
        "upstreams.conf": UPSTREAMS,
        "snippets/proxy.conf": PROXY,
        "snippets/tls.conf": TLS,
        "snippets/hidden.conf": HIDDEN,
        "vhosts/shop.conf": SHOP,
        "vhosts/api.conf": API,
        **({"vhosts/lua.conf": LUA} if lua else {}),
        **{f"vhosts/site{number}.conf": vhost(number) for number in range(1, 9)},
    }
    return {f"{ROOT}/{name}": text for name, text in named.items()}
