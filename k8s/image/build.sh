#!/bin/sh
# The image of every manifest in k8s/, made without a registry: Debian's Python from
# debootstrap, numpy and the wheel from pip. As image/Containerfile makes it with one.
set -eu

usage() {
    cat <<'END'
usage: k8s/image/build.sh [--lab] [--tag NAME] [--wheel FILE] [--base NAME] [--fresh]

  --lab         the image of k8s/lab, as Containerfile.lab makes it: JupyterLab and the course
  --tag NAME    the image to make (default: localhost/podipc:latest, or podipc-lab with --lab)
  --wheel FILE  what to install in it (default: built from this checkout)
  --base NAME   the image of Python and numpy that is kept in podman's store, so that
                another wheel takes seconds (default: localhost/podipc-base:latest)
  --fresh       make the base again

Needs root, on Debian or Ubuntu: podman, debootstrap, python3 with pip (and a C compiler
without --wheel). DEBOOTSTRAP_MIRROR is where Debian's packages are, if not at its default.
END
}

tag=
lab=
base=localhost/podipc-base:latest
wheel=
fresh=
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --fresh) fresh=1 && shift && continue ;;
    --lab) lab=1 && shift && continue ;;
    --tag | --wheel | --base) [ $# -gt 1 ] || { usage >&2 && exit 2; } ;;
    *) echo "build.sh: no such option: $1" >&2 && usage >&2 && exit 2 ;;
    esac
    case $1 in
    --tag) tag=$2 ;;
    --wheel) wheel=$2 ;;
    --base) base=$2 ;;
    esac
    shift 2
done

[ -n "$tag" ] || tag=localhost/podipc${lab:+-lab}:latest

suite=bookworm
python=3.11 # of that suite
root=$(cd "$(dirname "$0")/../.." && pwd)
PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "build.sh: $*" >&2
    exit 1
}
need() {
    command -v "$1" >/dev/null || fail "needs $1: apt-get install $2"
}
need podman "podman runc netavark aardvark-dns catatonit"
need python3 "python3 python3-venv"
# Any environment's pip will do: it installs into a directory.
pip="python3 -m pip --disable-pip-version-check --quiet"
$pip --version >/dev/null 2>&1 || fail "needs pip: apt-get install python3-pip"
[ -z "$wheel" ] || [ -f "$wheel" ] || fail "--wheel $wheel: there is no such file"

tmp=$(mktemp -d)
# What debootstrap mounts in there, and leaves if it is killed, is not to be emptied.
trap 'rm -rf --one-file-system "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# install DIR WHAT...: into a directory, for the image's Python, whatever runs pip.
install() {
    target=$1
    shift
    $pip install --no-compile --no-cache-dir --only-binary=:all: --python-version "$python" \
        --implementation cp --target "$target" "$@"
}

make_base() {
    need debootstrap debootstrap
    [ "$(id -u)" = 0 ] || fail "needs root to make the base image (debootstrap)"
    echo "build.sh: making $base (a minute)"
    # shellcheck disable=SC2086  # nothing, or one word
    debootstrap --variant=minbase --include=python3 "$suite" "$tmp/base" ${DEBOOTSTRAP_MIRROR:-} \
        >"$tmp/log" 2>&1 || {
        tail -n 5 "$tmp/log" >&2
        fail "debootstrap has failed"
    }
    install "$tmp/base/usr/local/lib/python$python/dist-packages" "numpy>=2"
    (
        cd "$tmp/base"
        rm -rf usr/share/doc usr/share/man usr/share/locale var/cache/apt var/lib/apt/lists \
            "usr/local/lib/python$python/dist-packages/bin"
        tar -c . | podman import --quiet --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' - "$base"
    ) >/dev/null
    rm -rf "$tmp/base"
}

make_wheel() {
    echo "build.sh: building the wheel"
    mkdir "$tmp/src"
    (cd "$root" && cp -r pyproject.toml setup.py MANIFEST.in README.md LICENSE third_party csrc podipc \
        "$tmp/src")
    $pip wheel --no-deps --no-cache-dir --wheel-dir "$tmp/wheels" "$tmp/src"
    wheel=$(echo "$tmp"/wheels/*.whl)
}

if [ -n "$fresh" ] || ! podman image exists "$base"; then
    make_base
fi
[ -n "$wheel" ] || make_wheel

packages=$tmp/context/root/usr/local/lib/python$python/dist-packages
mkdir -p "$tmp/context/root/usr/local/bin"
if [ -n "$lab" ]; then
    echo "build.sh: installing JupyterLab and the rest (some minutes)"
    install "$packages" "$wheel[notebook,k8s]"
    mkdir -p "$tmp/context/root/usr/local" "$tmp/context/root/srv/podipc"
    mv "$packages/share" "$tmp/context/root/usr/local/share" # where Jupyter looks for it
    (cd "$root" && cp -r README.md notebooks k8s "$tmp/context/root/srv/podipc")
else
    install "$packages" --no-deps "$wheel"
fi
# Written for whatever runs pip.
{
    echo '#!/usr/bin/python3'
    sed 1d "$packages/bin/podipc"
} >"$tmp/context/root/usr/local/bin/podipc"
chmod 755 "$tmp/context/root/usr/local/bin/podipc"
rm -rf "$packages/bin"
chmod -R a+rX "$tmp/context/root"
cat >"$tmp/context/Containerfile" <<END
FROM $base
COPY root /
ENV PATH=/usr/local/bin:/usr/bin:/bin
USER 65532:65532
CMD ["podipc", "compare", "--quick", "--runtime", "plain"]
END
before=$(podman image inspect --format '{{.Id}}' "$tag" 2>/dev/null) || before=
podman build --quiet --pull=never --network none --layers=false --tag "$tag" "$tmp/context" >/dev/null
# A wheel that was compiled against a later libc cannot be loaded there.
podman run --rm --network none "$tag" python3 -c "import podipc" >"$tmp/log" 2>&1 || {
    tail -n 5 "$tmp/log" >&2
    fail "podipc cannot be imported in $tag, of Debian $suite; pass --wheel with one that was built for it"
}
# What had the name before has none now; it stays if a container is made of it.
[ -z "$before" ] || podman image rm "$before" >/dev/null 2>&1 || true
echo "build.sh: made $tag"
