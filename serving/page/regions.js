/**
 * Boxes, corners and outlines over a picture of any size on the screen.
 *
 * @typedef {import("./server.js").Region} Region
 */

const SVG = "http://www.w3.org/2000/svg";
// White letters can be read on each of them.
const COLOURS = ["#c2255c", "#1864ab", "#2b7a39", "#a8410d", "#6741d9", "#0b7285", "#9c36b5", "#52606d"];

/**
 * One colour for each label, or for each region where none has a label.
 *
 * @param {Region[]} regions
 * @returns {string[]} one per region
 */
export function regionColours(regions) {
  const labels = [...new Set(regions.map(({ label }) => label))];
  const colour = (/** @type {number} */ index) => COLOURS[index % COLOURS.length];
  return regions.map(({ label }, index) => colour(label || labels.length > 1 ? labels.indexOf(label) : index));
}

/**
 * The outlines of a region: its polygons, else its corners, else its box.
 *
 * @param {Region} region
 * @returns {number[][]} x, y of the points of each outline
 */
export function outlines({ box, quad, polygons }) {
  if (polygons?.length) return polygons;
  if (quad) return [quad];
  if (!box) return [];
  const [left, top, right, bottom] = box;
  return [[left, top, right, top, right, bottom, left, bottom]];
}

/**
 * @param {Region[]} regions
 * @param {string[]} colours
 * @param {{width: number, height: number}} picture
 */
export function drawRegions(regions, colours, { width, height }) {
  const drawing = document.createElement("div");
  drawing.className = "drawing";
  drawing.setAttribute("aria-hidden", "true"); // the list says the same
  const shapes = document.createElementNS(SVG, "svg");
  shapes.setAttribute("viewBox", `0 0 ${width} ${height}`);
  shapes.setAttribute("preserveAspectRatio", "none");
  drawing.append(shapes);
  regions.forEach((region, index) => {
    for (const outline of outlines(region)) {
      for (const kind of ["halo", "line"]) {
        const shape = document.createElementNS(SVG, "polygon");
        shape.setAttribute("class", kind);
        shape.setAttribute("points", outline.join(" "));
        shape.dataset.region = String(index);
        shape.style.setProperty("--colour", colours[index]);
        shapes.append(shape);
      }
    }
    if (!region.box || !region.label) return;
    const label = document.createElement("span");
    label.className = "drawn-label";
    label.textContent = region.label;
    label.dataset.region = String(index);
    label.style.setProperty("--colour", colours[index]);
    const [left, top, right] = region.box;
    // Above the box and within the picture; on the right half it grows to the left.
    label.style.top = `max(0px, ${(100 * top) / height}% - 21px)`;
    if (left + right > width) label.style.right = `${100 - (100 * right) / width}%`;
    else label.style.left = `${(100 * left) / width}%`;
    drawing.append(label);
  });
  return drawing;
}
