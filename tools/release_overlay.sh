# Sourced by test_megatron.sh and test_vllm.sh, which run tests with another release of a package: it is put first on PYTHONPATH and
# the environment stays as it is.
readonly root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly venv="${MEGATRON_SPPO_VENV:-$root/.venv}"
cd "$root"
export PATH="$venv/bin:$PATH" OMP_NUM_THREADS=1

# Megatron's wheels for Python 3.11 ask for 3.12 from 0.17 on, and run all the same.
get() { python -m pip "$@" -qq --disable-pip-version-check --no-deps --ignore-requires-python; }

# overlay NAME PACKAGES...: into <environment>/NAME, once. Where pip cannot get them, this fails and says so.
overlay() {
    local folder="$venv/$1"
    if [[ ! -d "$folder" ]]; then
        scratch="$(mktemp -d "$venv/overlay.XXXXXX")"
        trap 'rm -rf "$scratch"' EXIT
        if ! get install --no-compile --target "$scratch/site" "${@:2}"; then
            echo "${0##*/}: pip cannot get ${*:2} for $(python -V): upstream has moved, or the index is out of reach" >&2
            exit 1
        fi
        mv "$scratch/site" "$folder"
        rmdir "$scratch"
    fi
    export PYTHONPATH="$folder${PYTHONPATH:+:$PYTHONPATH}"
}
