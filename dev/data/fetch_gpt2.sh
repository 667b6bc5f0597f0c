#!/bin/sh
# Fetches GPT-2's tokenizer, merges.txt and vocab.json, to data/gpt2/.
#
#     sh dev/data/fetch_gpt2.sh                              from huggingface.co
#     sh dev/data/fetch_gpt2.sh --mirror ../shared/data      from a folder that has gpt2/merges.txt
#                                                            and gpt2/vocab.json
#
# A file takes its place only after its sha256 has been found right.
set -eu
cd "$(dirname "$0")/../.."
mirror=
case "${1-}" in
    "") ;;
    --mirror) mirror=${2:?"--mirror needs a folder"} ;;
    *) echo "usage: fetch_gpt2.sh [--mirror FOLDER]" >&2; exit 2 ;;
esac
site=https://huggingface.co/openai-community/gpt2/resolve/main
mkdir -p data/gpt2

fetch() { # name, sha256
    target=data/gpt2/$1
    if [ -f "$target" ] && echo "$2  $target" | sha256sum -c --status 2> /dev/null; then
        echo "$target: is there"
        return
    fi
    trap 'rm -f "$target.part"' EXIT
    if [ -n "$mirror" ]; then
        cp "$mirror/gpt2/$1" "$target.part"
    elif command -v curl > /dev/null; then
        curl -fsSL -o "$target.part" "$site/$1"
    else
        wget -q -O "$target.part" "$site/$1"
    fi
    if ! echo "$2  $target.part" | sha256sum -c --status 2> /dev/null; then
        echo "fetch_gpt2.sh: $1: not the file that was expected (its sha256 differs)" >&2
        exit 1
    fi
    chmod 644 "$target.part"
    mv "$target.part" "$target"
    echo "$target: fetched"
}

fetch merges.txt 1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5
fetch vocab.json 196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783
