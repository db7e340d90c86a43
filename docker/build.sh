#!/bin/sh
# What the Dockerfile runs while an image is built, the same for both targets: build.sh python | packages NAME | wheel
set -eu

VENV=/opt/venv
TOOLS=/opt/tools # pip and setuptools, which stay behind in the builder
HERE=$(dirname "$0")
SECRETS=/run/secrets

# Installs Debian packages and leaves neither lists nor logs, whose times would differ from build to build.
apt_install() {
    if [ -f $SECRETS/apt.conf ]; then export APT_CONFIG=$SECRETS/apt.conf; fi
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/* /var/lib/dpkg/*-old \
        /var/log/apt/* /var/log/dpkg.log /var/log/alternatives.log
}

# The interpreter, the user, and the folders that are the user's.
python() {
    command -v python3 >/dev/null || apt_install python3
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the lock files are for Python 3.11 or newer, and this is " + sys.version)'
    useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin adam
    install --directory --owner=adam --group=adam --mode=0755 /cache
}

pip() {
    if [ -f $SECRETS/pip.conf ]; then export PIP_CONFIG_FILE=$SECRETS/pip.conf; fi
    if [ -f $SECRETS/ca.pem ]; then export PIP_CERT=$SECRETS/ca.pem; fi
    $TOOLS/bin/pip --disable-pip-version-check --no-cache-dir "$@"
}

# The dependencies, each by the hash in the lock file.
packages() {
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
    python3 -m venv $TOOLS
    python3 -m venv --without-pip $VENV
    pip install --require-hashes --only-binary :all: --requirement "$HERE/requirements-build.lock"
    pip --python $VENV/bin/python install --require-hashes --only-binary :all: --requirement "$HERE/requirements-$1.lock"
}

# The project itself, as a wheel.
wheel() {
    pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /tmp/wheels /src
    pip --python $VENV/bin/python install --no-deps --no-index /tmp/wheels/*.whl
    pip --python $VENV/bin/python check
}

"$@"
