/**
 * The images that a node shows, and how to name them so that the host's Load Image reads them.
 */

const VIDEO = /\.(mp4|m4v|webm|mkv|mov|avi|ogv)$/i;
const ANNOTATION = / \[(input|output|temp)\]$/;

/**
 * Addresses of the images on a node: the one that the user selected or points at, else all.
 *
 * @param {any} node
 * @param {any} app
 * @returns {string[]}
 */
export function shownImages(node, app) {
  if (node.previewMediaType === "video") return [];
  const imgs = node.imgs ?? [];
  if (imgs.length) {
    const one = imgs[node.imageIndex ?? node.overIndex ?? -1];
    return (one ? [one] : [...imgs]).map((img) => img?.src).filter(Boolean);
  }
  // Front ends that draw nodes with Vue fill node.imgs late or not at all: take what the node's output names.
  const isInner = node.graph && node.graph.isRootGraph === false;
  const output = app.nodeOutputs?.[isInner ? `${node.graph.id}:${node.id}` : `${node.id}`];
  const files = (output?.images ?? []).filter((image) => image?.filename && !VIDEO.test(image.filename));
  return files.map((image) => `/view?${new URLSearchParams(image)}`);
}

/**
 * How Load Image names the image at an address of the host's `/view`: "sub/name.png [temp]". Null for others.
 *
 * @param {string} address
 * @returns {string | null}
 */
export function loadImageName(address) {
  const url = new URL(address, location.href);
  if (url.origin !== location.origin || !url.pathname.endsWith("/view")) return null;
  const filename = url.searchParams.get("filename");
  if (!filename) return null;
  // A name may carry its folder already, as the mask editor's do; the host honours that before the parameter.
  const type = ANNOTATION.exec(filename)?.[1] ?? (url.searchParams.get("type") || "output");
  return annotated(filename.replace(ANNOTATION, ""), url.searchParams.get("subfolder"), type);
}

/**
 * @param {string} name
 * @param {string | null | undefined} subfolder
 * @param {string} type
 */
function annotated(name, subfolder, type) {
  return `${subfolder ? `${subfolder}/` : ""}${name} [${type}]`;
}

/**
 * Bring an image to the host that does not have it as a file (a live preview, a pasted picture), among its
 * temporary files.
 *
 * @param {any} api
 * @param {string} address
 * @returns {Promise<string>} how Load Image names it
 */
export async function uploadImage(api, address) {
  const body = new FormData();
  body.append("image", await drawnAsPng(address), `promptgen-${Date.now()}.png`);
  body.append("type", "temp");
  const response = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!response.ok) throw new Error(`The image could not be sent to ComfyUI: ${response.status} ${response.statusText}`);
  const saved = await response.json();
  return annotated(saved.name, saved.subfolder, saved.type ?? "temp");
}

/**
 * The image at an address as a PNG file. Drawn rather than fetched: the host's page may be one that forbids
 * fetching a `blob:` or `data:` address (its content security policy), though not showing it.
 *
 * @param {string} address
 * @returns {Promise<Blob>}
 */
async function drawnAsPng(address) {
  const image = new Image();
  image.crossOrigin = "anonymous";
  image.src = address;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  canvas.getContext("2d").drawImage(image, 0, 0);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The image could not be read."))), "image/png");
  });
}
