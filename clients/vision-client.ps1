<#
.SYNOPSIS
Asks a caption server about one picture. For Windows PowerShell 5.1 and PowerShell 7; needs nothing else.

.DESCRIPTION
The server is `promptgen serve`, or any other with the same three addresses (florence2-visionapi).
$env:PROMPTGEN_URL is its address, http://127.0.0.1:54880 if it is not set; $env:PROMPTGEN_API_KEY is its key,
if it wants one. Exit status: 0 done, 1 this picture failed, 2 wrong usage, 3 no picture can succeed (address, key).

.EXAMPLE
vision-client.ps1 CAPTION cat.jpg
What the server says about a picture.

.EXAMPLE
vision-client.ps1 prompts
What may be asked. 'vision-client.ps1 model' says who answers.
#>
[CmdletBinding()]
param(
    [Parameter(Position = 0)] [string] $Prompt,
    [Parameter(Position = 1)] [string] $Image
)

Set-StrictMode -Off # whatever the session has
$ErrorActionPreference = 'Stop'
$tries = 4
$longestPause = 60 # seconds
$seconds = 600 # to wait for an answer

$url = 'http://127.0.0.1:54880'
if ($env:PROMPTGEN_URL) { $url = $env:PROMPTGEN_URL.TrimEnd('/') }
if ($url -notmatch '^https?://') { $url = "http://$url" }

function Stop-Client([int] $Status, [string] $Message) {
    $about = ''
    if ($Image) { $about = "${Image}: " }
    $Host.UI.WriteErrorLine("vision-client.ps1: $about$Message")
    exit $Status
}

# All strings of a JSON text that match. ConvertFrom-Json would take a text that looks like a date for one.
function Get-JsonString([string] $Json, [string] $Key) {
    $string = '"([^"\\]*(?:\\.[^"\\]*)*)"'
    # No string can hold a key with its colon by itself: its quotes would be escaped.
    if ($Key) { $string = '"' + $Key + '"\s*:\s*' + $string }
    foreach ($found in [regex]::Matches($Json, $string)) { [regex]::Unescape($found.Groups[1].Value) }
}

# What the server says about a failure: "detail" or "error", where FastAPI checks by itself "msg", or anything.
function Get-Complaint([string] $Answer) {
    foreach ($key in 'detail', 'error', 'msg') {
        $said = @(Get-JsonString $Answer $key)
        if ($said.Count) { return $said[0] }
    }
    $Answer.Substring(0, [Math]::Min(200, $Answer.Length)) -replace '\s+', ' '
}

# One attempt; Status is 0 and Answer says why if there was no answer.
function Send-Once([string] $Path, [string] $Body) {
    try {
        if ($Body) {
            $content = [Net.Http.StringContent]::new($Body, [Text.Encoding]::UTF8, 'application/json')
            $task = $client.PostAsync($url + $Path, $content)
        } else {
            $task = $client.GetAsync($url + $Path)
        }
        while (-not $task.Wait(200)) { } # Ctrl-C is noticed between two waits
        $response = $task.Result
        @{
            Status = [int] $response.StatusCode
            Answer = $response.Content.ReadAsStringAsync().Result # UTF-8 where the server does not say
            After = $response.Headers.RetryAfter.Delta
        }
    } catch {
        $cause = $_.Exception.GetBaseException()
        $why = $cause.Message
        if ($cause -is [Threading.Tasks.TaskCanceledException]) { $why = "no answer within $seconds seconds" }
        @{ Status = 0; Answer = $why; After = $null }
    }
}

# The text of an answer. Only what may pass is tried again: a server that is busy, starting or being replaced.
function Send-Request([string] $Path, [string] $Body) {
    for ($try = 1; $try -le $tries; $try++) {
        $got = Send-Once $Path $Body
        if ($got.Status -ge 200 -and $got.Status -lt 300) { return $got.Answer }
        if (0, 429, 502, 503 -notcontains $got.Status) { break }
        if ($try -eq $tries) { break }
        $pause = [Math]::Pow(2, $try)
        if ($null -ne $got.After) { $pause = $got.After.TotalSeconds }
        Start-Sleep -Milliseconds ([int] (1000 * [Math]::Min($pause, $longestPause)))
    }
    $why = Get-Complaint $got.Answer
    switch ($got.Status) {
        0 {
            # Of this picture alone, if the server answers anything else.
            if ((Send-Once '/model' '').Status) { Stop-Client 1 "$url hung up $tries times: $why" }
            Stop-Client 3 "${url}: $why Is the server running? It has been tried $tries times."
        }
        { 401, 403 -contains $_ } {
            Stop-Client 3 "$url refuses: $why `$env:PROMPTGEN_API_KEY is the place for the key."
        }
        404 { Stop-Client 3 "$url is no caption server, or its address has a path before ${Path}: $why" }
        default { Stop-Client 1 "$url says $($got.Status): $why" }
    }
}

$asksServer = 'prompts', 'model' -contains $Prompt -and -not $Image
if (-not $asksServer -and -not ($Prompt -and $Image)) {
    $Host.UI.WriteErrorLine('vision-client.ps1 PROMPT IMAGE | prompts | model. Get-Help says more.')
    exit 2
}

Add-Type -AssemblyName System.Net.Http
if ($PSVersionTable.PSVersion.Major -lt 6) {
    # Older versions of Windows offer no more than TLS 1.0 by themselves.
    [Net.ServicePointManager]::SecurityProtocol =
        [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12
}
$handler = [Net.Http.HttpClientHandler]::new()
$handler.AllowAutoRedirect = $false # pictures go to the server that was named
$client = [Net.Http.HttpClient]::new($handler)
$client.Timeout = [TimeSpan]::FromSeconds($seconds)
if ($env:PROMPTGEN_API_KEY) {
    $key = "Bearer $env:PROMPTGEN_API_KEY"
    [void] $client.DefaultRequestHeaders.TryAddWithoutValidation('Authorization', $key)
}

try {
    if ($asksServer) {
        $answer = Send-Request "/$($Prompt.ToLowerInvariant())" ''
        $names = @(Get-JsonString $answer '')
        if (-not $names.Count) { Stop-Client 3 "$url is no caption server: $(Get-Complaint $answer)" }
        $names -replace '[<>]', ''
        exit 0
    }

    try {
        $file = Get-Item -LiteralPath $Image -Force # .NET has a current folder of its own
        $bytes = [IO.File]::ReadAllBytes($file.FullName)
    } catch {
        Stop-Client 1 ($_.Exception.GetBaseException().Message)
    }
    # <CAPTION>, as every server takes it, from Caption.
    $name = $Prompt.ToUpperInvariant() -replace '[<>]', '' -replace '(["\\])', '\$1'
    $body = '{"prompt":"<' + $name + '>","image":"' + [Convert]::ToBase64String($bytes) + '"}'
    $answer = Send-Request '/process_image' $body
    $result = @(Get-JsonString $answer 'result')
    if (-not $result.Count) { Stop-Client 1 "$url gave no result: $(Get-Complaint $answer)" }
    $result[0]
    exit 0
} finally {
    $client.Dispose()
}
