#!/bin/sh
# Holds everything that the CA has issued to OpenSSL's strictest reading. Needs the `openssl` program, and fails without
# it. Called from tests/peers/run; by hand:
#
#   openssl-check.sh [--ca CA_DIR] [--client BUNDLE_DIR]… [--server CHAIN.pem TRUST.pem NAME_OR_ADDRESS…]
#
#   --ca      <data_dir>/ca: every root-*.pem, root-*.crl and issuing-*.pem in it
#   --client  a bundle of `fieldgate device add`: ca.pem, cert.pem and, when the key was made here, key.pem
#   --server  a chain as the server shows it, the trust bundle, and what it must be valid for; last on the line
#
# `cargo run -p fieldgate-certs --example plant -- DIR` makes something to check.
set -eu

checked=0
fail() { echo "openssl-check: $*" >&2; exit 1; }
pass() { checked=$((checked + 1)); echo "ok   $*"; }
command -v openssl >/dev/null 2>&1 || fail "the program openssl is missing: apt-get install openssl"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# must NAME COMMAND…: the command succeeds.
must() {
    name=$1; shift
    "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "$name"; }
    pass "$name"
}

# must_not NAME COMMAND…: the command is refused.
must_not() {
    name=$1; shift
    if "$@" >"$work/out" 2>&1; then fail "$name: was accepted"; fi
    pass "$name"
}

# has NAME PEM TEXT: `openssl x509 -text` holds the text, spaces at line ends and starts aside.
has() {
    openssl x509 -in "$2" -noout -text | tr -s ' \n' '  ' | grep -qF -- "$3" || fail "$1: no \`$3\` in $2"
    pass "$1"
}

# The self-signed certificates of a bundle, into the second file.
roots_of() {
    rm -f "$work"/part-*; : >"$2"
    awk -v out="$work/part-" '/BEGIN CERTIFICATE/ { n++ } { print > (out n ".pem") }' "$1"
    for part in "$work"/part-*.pem; do
        subject=$(openssl x509 -in "$part" -noout -subject_hash)
        issuer=$(openssl x509 -in "$part" -noout -issuer_hash)
        if [ "$subject" = "$issuer" ]; then cat "$part" >>"$2"; fi
    done
    [ -s "$2" ] || fail "no root in $1"
}

# A leaf that is good for one purpose only. leaf NAME CHAIN TRUST PURPOSE OTHER USAGE
leaf() {
    roots_of "$3" "$work/roots.pem"
    must "$1: strict, $4, whole trust bundle" openssl verify -x509_strict -purpose "$4" -CAfile "$3" "$2"
    must "$1: strict, $4, roots and the chain shown" \
        openssl verify -x509_strict -purpose "$4" -CAfile "$work/roots.pem" -untrusted "$2" "$2"
    must_not "$1: not $5" openssl verify -x509_strict -purpose "$5" -CAfile "$3" "$2"
    has "$1: extended key usage" "$2" "X509v3 Extended Key Usage: $6 X509v3"
    has "$1: key usage critical" "$2" "X509v3 Key Usage: critical Digital Signature X509v3"
    has "$1: not a CA, critical" "$2" "X509v3 Basic Constraints: critical CA:FALSE"
    has "$1: subject key identifier" "$2" "X509v3 Subject Key Identifier:"
    has "$1: authority key identifier" "$2" "X509v3 Authority Key Identifier:"
}

check_ca() {
    for root in "$1"/root-*.pem; do
        [ -e "$root" ] || fail "no root-*.pem in $1"
        must "$root: strict" openssl verify -x509_strict -CAfile "$root" "$root"
        has "$root: path length" "$root" "X509v3 Basic Constraints: critical CA:TRUE, pathlen:1"
        has "$root: key usage" "$root" "X509v3 Key Usage: critical Certificate Sign, CRL Sign"
    done
    cat "$1"/root-*.pem >"$work/all-roots.pem"
    cat "$1"/root-*.crl >"$work/all-lists.pem" || fail "no root-*.crl in $1"
    for issuing in "$1"/issuing-*.pem; do
        [ -e "$issuing" ] || fail "no issuing-*.pem in $1"
        must "$issuing: strict" openssl verify -x509_strict -CAfile "$work/all-roots.pem" "$issuing"
        has "$issuing: path length" "$issuing" "X509v3 Basic Constraints: critical CA:TRUE, pathlen:0"
        # By the roots' lists no issuing CA is revoked; the time is that of the check.
        must "$issuing: strict, root's revocation list" \
            openssl verify -x509_strict -crl_check -CRLfile "$work/all-lists.pem" -CAfile "$work/all-roots.pem" "$issuing"
        has "$issuing: key usage" "$issuing" "X509v3 Key Usage: critical Certificate Sign, CRL Sign"
    done
    for key in "$1"/*.key; do
        [ -e "$key" ] || continue
        same_key "$key" "${key%.key}.pem"
    done
}

# The key belongs to the certificate, and nobody else can read it.
same_key() {
    [ "$(openssl pkey -in "$1" -pubout)" = "$(openssl x509 -in "$2" -noout -pubkey)" ] || fail "$1 is not the key of $2"
    [ "$(stat -c %a "$1")" = 600 ] || fail "$1 has mode $(stat -c %a "$1"), 600 is wanted"
    pass "$1: belongs to its certificate, mode 600"
}

check_client() {
    leaf "$1" "$1/cert.pem" "$1/ca.pem" sslclient sslserver "TLS Web Client Authentication"
    id=$(openssl x509 -in "$1/cert.pem" -noout -subject -nameopt RFC2253 | sed 's/^subject=CN=//')
    has "$1: identity" "$1/cert.pem" "X509v3 Subject Alternative Name: URI:urn:fieldgate:device:$id X509v3"
    if [ -e "$1/key.pem" ]; then same_key "$1/key.pem" "$1/cert.pem"; fi
}

check_server() {
    chain=$1; trust=$2; shift 2
    [ $# -gt 0 ] || fail "--server needs what the certificate must be valid for"
    leaf "$chain" "$chain" "$trust" sslserver sslclient "TLS Web Server Authentication"
    for name in "$@"; do
        case $name in
            *:* | [0-9]*.[0-9]*.[0-9]*.[0-9]*) option=-verify_ip ;;
            *) option=-verify_hostname ;;
        esac
        must "$chain: valid for $name" openssl verify -x509_strict -purpose sslserver "$option" "$name" -CAfile "$trust" "$chain"
    done
    must_not "$chain: not valid for elsewhere.example" \
        openssl verify -purpose sslserver -verify_hostname elsewhere.example -CAfile "$trust" "$chain"
}

while [ $# -gt 0 ]; do
    option=$1; shift
    case $option in
        --ca) check_ca "${1:?--ca needs a directory}"; shift ;;
        --client) check_client "${1:?--client needs a bundle directory}"; shift ;;
        --server)
            [ $# -ge 2 ] || fail "--server needs a chain and a trust bundle"
            check_server "$@"; break ;;
        *) fail "\`$option\` is not known: --ca, --client or --server is" ;;
    esac
done
[ "$checked" -gt 0 ] || fail "nothing to check: give --ca, --client or --server"
echo "openssl-check: $checked checks passed, $(openssl version)"
