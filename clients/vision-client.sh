#!/bin/sh
# Asks a caption server about one picture. Needs nothing but sh, curl and what every Unix has.
# The server is `promptgen serve`, or any other with the same three addresses (florence2-visionapi).

usage() {
    cat <<'END'
vision-client.sh PROMPT IMAGE    what the server says about a picture: vision-client.sh CAPTION cat.jpg
vision-client.sh prompts         what may be asked
vision-client.sh model           who answers

PROMPTGEN_URL is the server's address, http://127.0.0.1:54880 if it is not set. PROMPTGEN_API_KEY is its key, if
it wants one. Exit status: 0 done, 1 this picture failed, 2 wrong usage, 3 no picture can succeed (address, key).
END
}

set -u
url=${PROMPTGEN_URL:-http://127.0.0.1:54880}
url=${url%/}
tries=4
longest_pause=60 # seconds
# A proxy for the way out of the house does not lead to this machine.
no_proxy="${no_proxy:+$no_proxy,}${NO_PROXY:+$NO_PROXY,}localhost,127.0.0.1,::1"
export no_proxy
image=

fail() { # STATUS MESSAGE
    printf '%s\n' "vision-client.sh: ${image:+$image: }$2" >&2
    exit "$1"
}

# The string that a key of the JSON text on standard input has, or all its strings if no key is given, one in a
# line, each as printf's %b reads it.
json_strings() { # [KEY]
    LC_ALL=C awk -v key="${1-}" '
    { json = json $0 "\n" }

    END {
        string = "\"[^\"\\\\]*(\\\\.[^\"\\\\]*)*\""
        blank = "[ \t\r\n]*"
        if (key == "") {
            while (match(json, string)) {
                token = substr(json, RSTART, RLENGTH)
                json = substr(json, RSTART + RLENGTH)
                print unescaped(token)
            }
        } else {
            # No string can hold this by itself: its quotes would be escaped.
            if (!match(json, "\"" key "\"" blank ":" blank string)) exit 1
            token = substr(json, RSTART, RLENGTH)
            sub("^\"" key "\"" blank ":" blank, "", token)
            print unescaped(token)
        }
    }

    function unescaped(token,    text, letter, code, low) {
        token = substr(token, 2, length(token) - 2)
        while (match(token, /\\./)) {
            text = text substr(token, 1, RSTART - 1)
            letter = substr(token, RSTART + 1, 1)
            token = substr(token, RSTART + 2)
            if (letter == "u") {
                code = hexadecimal(substr(token, 1, 4))
                token = substr(token, 5)
                low = token ~ /^\\u[dD][c-fC-F]/ ? hexadecimal(substr(token, 3, 4)) : 0
                if (code >= 55296 && code < 56320 && low) { # halves of one character: D800-DBFF, DC00-DFFF
                    code = 65536 + (code - 55296) * 1024 + low - 56320
                    token = substr(token, 7)
                } else if (code >= 55296 && code < 57344) code = 65533 # half a character
                text = text utf8(code)
            } else if (letter == "\"" || letter == "/") text = text letter
            else text = text "\\" letter # \\ \b \f \n \r \t are the same for printf
        }
        return text token
    }

    function hexadecimal(digits,    place, number) {
        for (place = 1; place <= 4; place++)
            number = number * 16 + index("0123456789abcdef", tolower(substr(digits, place, 1))) - 1
        return number
    }

    function utf8(code) {
        if (code < 128) return octal(code)
        if (code < 2048) return octal(192 + int(code / 64)) rest(code, 1)
        if (code < 65536) return octal(224 + int(code / 4096)) rest(code, 64) rest(code, 1)
        return octal(240 + int(code / 262144)) rest(code, 4096) rest(code, 64) rest(code, 1)
    }

    function rest(code, unit) { return octal(128 + int(code / unit) % 64) }

    function octal(byte) { return sprintf("\\0%03o", byte) }
    '
}

# What the server says about a failure: "detail" or "error", where FastAPI checks by itself "msg", or anything.
complaint() {
    for key in detail error msg; do
        if said=$(json_strings "$key" <"$work/answer"); then
            printf '%b' "$said"
            return
        fi
    done
    head -c 200 "$work/answer" | tr '\r\n\t' '   '
}

pause_before_try() { # NUMBER: as long as the server says, else twice as long each time
    asked=$(sed -n 's/^[Rr]etry-[Aa]fter:[[:space:]]*\([0-9]\{1,9\}\)[[:space:]]*$/\1/p' "$work/head")
    [ -n "$asked" ] || asked=$((1 << ($1 - 1)))
    [ "$asked" -le "$longest_pause" ] || asked=$longest_pause
    sleep "$asked"
}

# Puts the answer to a request into $work/answer. Only what may pass is tried again: a server that is busy, starting
# or being replaced.
request() { # PATH [CURL'S ARGUMENTS]
    path=$1
    shift
    try=1
    while :; do
        : >"$work/answer"
        : >"$work/head"
        code=$(curl -sS --connect-timeout 10 --max-time 600 -H "@$work/headers" -D "$work/head" \
            -o "$work/answer" -w '%{http_code}' "$@" "$url$path" 2>"$work/trouble") && trouble=0 || trouble=$?
        case $trouble:$code in
        0:2??) return ;;
        0:429 | 0:502 | 0:503) ;;
        0:401 | 0:403) fail 3 "$url refuses: $(complaint). PROMPTGEN_API_KEY is the place for the key." ;;
        0:404) fail 3 "$url is no caption server, or its address has a path before $path: $(complaint)" ;;
        0:*) fail 1 "$url says $code: $(complaint)" ;;
        7:* | 52:* | 55:* | 56:*) ;; # refused; hung up
        *) fail 3 "$url: $(cat "$work/trouble"). PROMPTGEN_URL is the place for the address." ;;
        esac
        try=$((try + 1))
        [ "$try" -le "$tries" ] || break
        pause_before_try "$try"
    done
    case $trouble in
    0) fail 1 "$url says $code: $(complaint). It has been tried $tries times." ;;
    7) fail 3 "$url: $(cat "$work/trouble"). Does the server run? It has been tried $tries times." ;;
    *) fail 1 "$url hung up $tries times: $(cat "$work/trouble")" ;;
    esac
}

case $#:${1-} in
1:-h | 1:--help) usage && exit ;;
1:prompts | 1:model) ;;
2:-*) usage >&2 && exit 2 ;;
2:*) image=$2 && [ -n "$image" ] || fail 2 "the name of the picture is empty" ;;
*) usage >&2 && exit 2 ;;
esac
if [ -n "$image" ] && { [ ! -f "$image" ] || [ ! -r "$image" ]; }; then
    fail 1 "there is no such file, or it may not be read"
fi
command -v curl >/dev/null || fail 3 "curl is missing; install it"

umask 077
work=$(mktemp -d) || fail 3 "no folder for temporary files; \$TMPDIR is the place for another"
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# In a file, since everybody may read the arguments of a process.
{
    echo 'Content-Type: application/json'
    [ -z "${PROMPTGEN_API_KEY-}" ] || printf 'Authorization: Bearer %s\n' "$PROMPTGEN_API_KEY"
} >"$work/headers"

if [ -z "$image" ]; then
    request "/$1"
    strings=$(json_strings <"$work/answer")
    [ -n "$strings" ] || fail 3 "$url is no caption server: $(complaint)"
    printf '%b\n' "$strings" | tr -d '<>'
    exit
fi

# <CAPTION>, as every server takes it, from Caption.
name=$(printf '%s' "$1" | LC_ALL=C tr '[:lower:]' '[:upper:]' | tr -d '<>' | sed 's/[\\"]/\\&/g')
{
    printf '{"prompt":"<%s>","image":"' "$name"
    base64 <"$image" | tr -d '\r\n'
    printf '"}'
} >"$work/request" || fail 3 "the request could not be written"
request /process_image --data-binary "@$work/request"
text=$(json_strings result <"$work/answer") || fail 1 "$url gave no result: $(complaint)"
printf '%b\n' "$text" || fail 1 "the text could not be written"
