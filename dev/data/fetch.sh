#!/bin/sh
# Fetches texts, and GPT-2's tokenizer and weights, to data/.
#
#     sh dev/data/fetch.sh shakespeare names        two texts, from the network
#     sh dev/data/fetch.sh all                      everything in the table below but the weights
#     sh dev/data/fetch.sh war-and-peace            one of the books; books means all three
#     sh dev/data/fetch.sh books --mirror FOLDER    from a folder that has the files of the table
#
# A file is put in place only after its sha256 has been checked.  A fetch that was cut short goes on
# where it stopped.  curl or wget is needed, unless --mirror replaces the network.
#
# Project Gutenberg revises its books, with other bytes and so another sha256.  --any-edition
# takes them as they are, and keeps such a book if it is there; figures that were measured on the
# edition below may then differ in their last digits.
set -eu
fail() {
    echo "fetch.sh: $*" >&2
    exit 1
}

# set, file in data/, sha256, address.  The sums of GPT-2's files are those that several public
# projects pin for this revision of openai-community/gpt2.
gpt2=https://huggingface.co/openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e
table() {
    cat << END
shakespeare tinyshakespeare.txt 86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
names names.txt 0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d https://raw.githubusercontent.com/karpathy/makemore/master/names.txt
books war-and-peace.txt 1ce58d5e322b309fd68e5ca0434530ccedd69bf0e2d12cd5094097b62a5e89a8 https://www.gutenberg.org/cache/epub/2600/pg2600.txt
books pride-and-prejudice.txt d02c06ecdee0120842aa1274288a07fe68d5316d1e8285853eaf4fc65a0b39a0 https://www.gutenberg.org/cache/epub/1342/pg1342.txt
books sherlock-holmes.txt b0bcb5162854244cf4a2d430f9821db8d0ad46f49f4b849d0048b4bdcf40026f https://www.gutenberg.org/cache/epub/1661/pg1661.txt
gpt2 gpt2/merges.txt 1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5 $gpt2/merges.txt
gpt2 gpt2/vocab.json 196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783 $gpt2/vocab.json
gpt2-weights gpt2/config.json 0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4 $gpt2/config.json
gpt2-weights gpt2/model.safetensors 248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707 $gpt2/model.safetensors
END
}

sets='' mirror='' any=false
while [ $# -gt 0 ]; do
    case $1 in
        shakespeare | names | books | gpt2 | gpt2-weights) sets="$sets $1" ;;
        war-and-peace | pride-and-prejudice | sherlock-holmes) sets="$sets $1" ;;
        all) sets="$sets shakespeare names books gpt2" ;;
        --mirror)
            [ $# -ge 2 ] || { sets=''; break; }
            mirror=$(cd "$2" 2> /dev/null && pwd) || fail "--mirror $2: there is no such folder"
            shift
            ;;
        --any-edition) any=true ;;
        *) sets=''; break ;;
    esac
    shift
done
if [ -z "$sets" ]; then
    echo "usage: fetch.sh shakespeare|names|books|NAME-OF-A-BOOK|gpt2|gpt2-weights|all ...\
 [--mirror FOLDER] [--any-edition]" >&2
    exit 2
fi
cd "$(dirname "$0")/../.."

command -v sha256sum > /dev/null || command -v shasum > /dev/null ||
    fail "sha256sum or shasum is needed, to check what is fetched"
sum_is() { # file, sha256
    [ "$2" = "$( (sha256sum "$1" 2> /dev/null || shasum -a 256 "$1") | cut -d ' ' -f 1)" ]
}

# A book without what the publisher put before and after it, and without \r.  The line that says
# where it starts is broken in two if the title is long; the second part ends with ***.
book_cut() {
    tr -d '\r' < "$1" | awk '/^\*\*\* *END OF/ { exit }
        broken { broken = 0; if (/\*\*\* *$/) next }
        on && NF { printf "%s%s\n", begun ? blank : "", $0; blank = ""; begun = 1; next }
        on { blank = blank $0 "\n" }
        /^\*\*\* *START OF/ { on = 1; broken = !/\*\*\* *$/ }' > "$1.cut"
    mv "$1.cut" "$1"
}

# What is there already is not fetched again.  Where the server cannot begin in the middle, which
# curl tells by status 33, or what is there is too long for it (HTTP status 416), all of it is.
download() { # file, address
    if command -v curl > /dev/null; then
        status=0
        code=$(curl -fL --progress-bar -C - -o "$1" -w '%{http_code}' "$2") || status=$?
        if [ "$status" -eq 33 ] || [ "$code" = 416 ]; then
            rm -f "$1"
            curl -fL --progress-bar -o "$1" "$2"
        else
            return "$status"
        fi
    elif command -v wget > /dev/null; then
        wget -c -O "$1" "$2"
    else
        fail "curl or wget is needed, or --mirror FOLDER"
    fi
}

fetch() { # set, file, sha256, address
    target=data/$2 part=data/$2.part
    if [ -f "$target" ] && { sum_is "$target" "$3" || { [ "$1" = books ] && $any && [ -s "$target" ]; }; }; then
        echo "$target: is there"
        return
    fi
    mkdir -p "$(dirname "$target")"
    if [ -n "$mirror" ]; then
        [ -f "$mirror/$2" ] || fail "$2: it is not in $mirror"
        cp "$mirror/$2" "$part" || { rm -f "$part"; fail "$2: it could not be copied"; }
    elif ! { [ -f "$part" ] && sum_is "$part" "$3"; } && ! download "$part" "$4"; then
        [ -s "$part" ] || rm -f "$part"
        fail "$2: $4 could not be fetched; the same command goes on where this one stopped"
    fi
    book=false
    if [ "$1" = books ] && grep -q '^\*\*\* *START OF' "$part"; then
        book_cut "$part"
        book=true
    fi
    if ! sum_is "$part" "$3"; then
        if $book && $any && [ -s "$part" ]; then
            echo "$target: another edition than the one that was measured"
        else
            rm -f "$part"
            [ "$1" != books ] || set -- "$@" '; --any-edition, or ANY_EDITION=1 make reproduce, takes a book as it is now'
            fail "$2: not the file that was expected (its sha256 differs)${5-}"
        fi
    fi
    chmod 644 "$part"
    mv "$part" "$target"
    echo "$target: fetched"
}

table | while read -r set file sum address; do
    case " $sets " in *" $set "* | *" ${file%.txt} "*) fetch "$set" "$file" "$sum" "$address" ;; esac
done
