# Sourced by `tests/peers/run` and `tests/console/run`: installs what is missing, and fails when it can't; it never skips.
# They set `here`, the folder with their lists, and `cache`, where what is made of them lies.

export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive PYTHONDONTWRITEBYTECODE=1

fail() {
  echo "$0: $*" >&2
  exit 1
}

# Debian packages: those of "$@" whose program is missing. Each argument is PROGRAM=PACKAGE.
install_missing() {
  local pair packages=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
  done
  [ ${#packages[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || fail "needs ${packages[*]}, and there is no apt-get to install them with"
  [ "$(id -u)" -eq 0 ] || fail "needs ${packages[*]}; run as root, or: sudo apt-get install ${packages[*]}"
  echo "installing ${packages[*]}"
  apt-get update -qq </dev/null >&2 || fail "apt-get update failed"
  apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >&2 || fail "could not install ${packages[*]}"
  # Debian starts a broker on port 1883 when it installs one: this installation's, so ours to stop.
  if [[ " ${packages[*]} " == *" mosquitto "* ]] && [ -s /run/mosquitto/mosquitto.pid ]; then
    service mosquitto stop >&2 || fail "could not stop the broker that the installation started"
  fi
}

# A virtual environment for exactly these requirements; made anew when they or the interpreter change.
prepare_python() {
  local key
  key=$( (cat "$here/requirements.txt"; python3 -VV) | sha256sum | cut -c1-16)
  venv=$cache/venv-$key
  [ -e "$venv/ready" ] && return
  python3 -c 'import ensurepip, venv' 2>/dev/null || install_missing not-a-program=python3-venv
  rm -rf "$venv"
  mkdir -p "$cache"
  python3 -m venv "$venv" || fail "could not make a virtual environment in $venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" </dev/null || fail "could not install the Python peers"
  touch "$venv/ready"
}

# The Node.js packages of package-lock.json, each held to its checksum there.
prepare_node() {
  local key
  key=$( (cat "$here/package-lock.json"; node --version) | sha256sum | cut -c1-16)
  modules=$cache/node-$key
  [ -e "$modules/ready" ] && return
  rm -rf "$modules"
  mkdir -p "$modules"
  cp "$here/package.json" "$here/package-lock.json" "$modules"
  (cd "$modules" && npm ci --silent --ignore-scripts --no-audit --no-fund </dev/null) || fail "could not install the Node.js peers"
  touch "$modules/ready"
}
