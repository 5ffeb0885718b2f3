#!/bin/sh
# Captions all pictures in a folder and below it by way of vision-client.sh, which must lie beside this.

usage() {
    cat <<'END'
vision-caption-folder-images.sh PROMPT EXTENSION FOLDER

    vision-caption-folder-images.sh DETAILED_CAPTION txt photos    writes photos/cat.txt for photos/cat.jpg

Captions that are there are kept, so the same command goes on where it was stopped. What fails is told and
leaves no file. PROMPTGEN_URL and PROMPTGEN_API_KEY: see vision-client.sh. Exit status: 0 every picture has its
caption, 1 some have none, 2 wrong usage, 3 no picture can succeed (address, key), 130 stopped.
END
}

set -u

fail() { # STATUS MESSAGE
    printf '%s\n' "vision-caption-folder-images.sh: $2" >&2
    exit "$1"
}

is_picture_name() { # NAME
    case $1 in
    *.[Jj][Pp][Gg] | *.[Jj][Pp][Ee][Gg] | *.[Jj][Pp][Ee] | *.[Jj][Ff][Ii][Ff] | *.[Pp][Nn][Gg]) ;;
    *.[Ww][Ee][Bb][Pp] | *.[Gg][Ii][Ff] | *.[Bb][Mm][Pp] | *.[Tt][Ii][Ff] | *.[Tt][Ii][Ff][Ff]) ;;
    *.[Aa][Vv][Ii][Ff]) ;;
    *) return 1 ;;
    esac
}

tell_failure() { # MESSAGE
    printf '%s\n' "$1" >&2
    failed=$((failed + 1))
}

caption_folder() { # FOLDER
    if [ ! -r "$1" ] || [ ! -x "$1" ]; then
        tell_failure "$1: may not be looked into"
        return
    fi
    for entry in "$1"/*; do # hidden ones are nobody's pictures, nor what network drives and archives bring along
        case ${entry##*/} in @eaDir | __MACOSX) continue ;; esac
        if [ -d "$entry" ]; then
            [ -L "$entry" ] || caption_folder "$entry" # a link may lead in a circle
        elif [ -f "$entry" ] && is_picture_name "$entry"; then
            caption_picture "$entry"
        fi
    done
}

caption_picture() { # IMAGE
    file=${1%.*}.$extension
    for other in "${1%.*}".*; do
        if [ "$other" != "$1" ] && [ "${other%.*}" = "${1%.*}" ] && [ -f "$other" ] && is_picture_name "$other"; then
            tell_failure "$1: left out, since the caption of ${other##*/} would have the same name; rename one"
            return
        fi
    done
    if [ -e "$file" ] || [ -L "$file" ]; then
        if [ -f "$file" ] && has_text "$file"; then
            kept=$((kept + 1))
        else
            tell_failure "$file: is there and holds no caption; delete it to have one written"
        fi
        return
    fi
    temporary=${file%/*}/.promptgen-$$.tmp
    sh "$client" "$prompt" "$1" >"$temporary" && status=0 || status=$?
    if [ "$status" -eq 0 ] && ! has_text "$temporary"; then
        printf '%s\n' "$1: the answer is empty" >&2
        status=1
    fi
    if [ "$status" -eq 0 ] && mv -f "$temporary" "$file"; then
        captioned=$((captioned + 1))
        printf '%s\n' "$file"
        return
    fi
    rm -f "$temporary"
    failed=$((failed + 1))
    [ "$status" -lt 3 ] || exit "$status"
}

has_text() { # FILE: and not what a failed script of old has left
    LC_ALL=C grep -q '[^[:space:]]' <"$1" && [ "$(head -c 10 "$1" | tr -d '\0[:space:]')" != null ]
}

finish() {
    [ -z "$temporary" ] || rm -f "$temporary"
    printf '%s\n' "$captioned captioned, $kept kept, $failed without a caption." >&2
}

case $#:${1-} in
1:-h | 1:--help) usage && exit ;;
3:-*) usage >&2 && exit 2 ;;
3:*) ;;
*) usage >&2 && exit 2 ;;
esac
prompt=$1
extension=${2#.}
folder=$3
case $folder in -*) folder=./$folder ;; esac
[ "$folder" = / ] || folder=${folder%/}
case $extension in
'' | *[!A-Za-z0-9._-]* | .* | *.) fail 2 "'$2' is no extension for caption files; txt is one" ;;
esac
! is_picture_name "x.$extension" || fail 2 "'$2' is an extension of pictures; txt is one for captions"
[ -d "$folder" ] || fail 2 "$3 is no folder"
client=$(dirname "$0")/vision-client.sh
[ -f "$client" ] || fail 2 "$client is missing; both scripts belong into one folder"

captioned=0 kept=0 failed=0 temporary=
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
caption_folder "$folder"
[ "$failed" -eq 0 ]
