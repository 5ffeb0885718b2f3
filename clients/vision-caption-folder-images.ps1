<#
.SYNOPSIS
Captions all pictures in a folder and below it by way of vision-client.ps1, which must lie beside this.

.DESCRIPTION
Captions that are there are kept, so the same command goes on where it was stopped. What fails is told and
leaves no file. Captions are UTF-8 without a byte order mark. $env:PROMPTGEN_URL and $env:PROMPTGEN_API_KEY: see
vision-client.ps1. Exit status: 0 every picture has its caption, 1 some have none, 2 wrong usage, 3 no picture
can succeed (address, key).

.EXAMPLE
vision-caption-folder-images.ps1 DETAILED_CAPTION txt C:\photos
Writes C:\photos\cat.txt for C:\photos\cat.jpg.
#>
[CmdletBinding()]
param(
    [Parameter(Position = 0)] [string] $Prompt,
    [Parameter(Position = 1)] [string] $Extension,
    [Parameter(Position = 2)] [string] $Folder
)

Set-StrictMode -Off # whatever the session has
$ErrorActionPreference = 'Stop'
$pictureExtensions = '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.gif', '.bmp', '.tif', '.tiff',
    '.avif'
$utf8 = [Text.UTF8Encoding]::new($false)

function Stop-Run([string] $Message) {
    $Host.UI.WriteErrorLine("vision-caption-folder-images.ps1: $Message")
    exit 2
}

function Get-CaptionPath([IO.FileInfo] $Picture) {
    [IO.Path]::ChangeExtension($Picture.FullName, $bare)
}

# Whether a file holds text, and not what a failed script of old has left.
function Test-Caption([string] $Path) {
    try { $text = [IO.File]::ReadAllText($Path).Replace("`0", '').Trim() } catch { return $false }
    $text -cne '' -and $text -cne 'null'
}

if (-not ($Prompt -and $Extension -and $Folder)) {
    Stop-Run 'vision-caption-folder-images.ps1 PROMPT EXTENSION FOLDER. Get-Help says more.'
}
$bare = $Extension -replace '^\.', ''
if ($bare -notmatch '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$') {
    Stop-Run "'$Extension' is no extension for caption files; txt is one."
}
if ($pictureExtensions -contains [IO.Path]::GetExtension("x.$bare")) {
    Stop-Run "'$Extension' is an extension of pictures; txt is one for captions."
}
$root = Get-Item -LiteralPath $Folder -Force -ErrorAction SilentlyContinue
if ($root -isnot [IO.DirectoryInfo]) { Stop-Run "$Folder is no folder." }
$client = [IO.Path]::Combine($PSScriptRoot, 'vision-client.ps1')
if (-not (Test-Path -LiteralPath $client)) {
    Stop-Run "$client is missing; both scripts belong into one folder."
}

$captioned = 0
$kept = 0
$failed = 0
$status = 0
$temporary = $null

# Hidden files, and folders that network drives and archives bring along, are nobody's pictures.
$search = @{ LiteralPath = $root.FullName; Recurse = $true; File = $true; ErrorAction = 'SilentlyContinue' }
$pictures = @(
    Get-ChildItem @search -ErrorVariable unreadable |
        Where-Object { $pictureExtensions -contains $_.Extension } |
        Where-Object {
            $_.FullName.Substring($root.FullName.Length) -notmatch '(^|[\\/])(\.|@eaDir|__MACOSX)'
        } |
        Sort-Object -Property FullName
)
foreach ($problem in $unreadable) {
    $Host.UI.WriteErrorLine($problem.Exception.Message)
    $failed++
}
$sharing = @{} # how many pictures ask for a caption file; names that differ in case are the same
foreach ($picture in $pictures) { $sharing[(Get-CaptionPath $picture)] += 1 }

try {
    foreach ($picture in $pictures) {
        $path = Get-CaptionPath $picture
        if ($sharing[$path] -gt 1) {
            $why = "left out, since another picture's caption would have the same name; rename one of them"
            $Host.UI.WriteErrorLine("$($picture.FullName): $why")
            $failed++
            continue
        }
        if (Test-Path -LiteralPath $path) {
            if (Test-Caption $path) {
                $kept++
            } else {
                $why = 'is there and holds no caption; delete it to have one written'
                $Host.UI.WriteErrorLine("${path}: $why")
                $failed++
            }
            continue
        }

        $text = & $client -Prompt $Prompt -Image $picture.FullName
        if ($LASTEXITCODE -ne 0) {
            $failed++
            if ($LASTEXITCODE -ge 3) {
                $status = $LASTEXITCODE
                break
            }
            continue
        }
        if ([string]::IsNullOrWhiteSpace($text)) {
            $Host.UI.WriteErrorLine("$($picture.FullName): the answer is empty")
            $failed++
            continue
        }
        try {
            # With a rename, so that nobody sees half a caption; Move replaces nothing.
            $temporary = [IO.Path]::Combine($picture.DirectoryName, ".promptgen-$PID.tmp")
            [IO.File]::WriteAllText($temporary, $text.Replace("`r`n", "`n") + "`n", $utf8)
            [IO.File]::Move($temporary, $path)
            $captioned++
            $path
        } catch {
            $Host.UI.WriteErrorLine("${path}: $($_.Exception.GetBaseException().Message)")
            if ([IO.File]::Exists($temporary)) { [IO.File]::Delete($temporary) }
            $failed++
        }
    }
} finally {
    if ($temporary -and [IO.File]::Exists($temporary)) { [IO.File]::Delete($temporary) }
    Write-Host "$captioned captioned, $kept kept, $failed without a caption."
}
if ($status -eq 0 -and $failed -gt 0) { $status = 1 }
exit $status
