
// Steps through the masks of a video. They stay COCO run lengths; those of the frame that is shown are decoded.

const data = JSON.parse(document.getElementById("data").textContent);
const [height, width] = data.size;
const last = data.length - 1;
const find = (id) => document.getElementById(id);
const on = { masks: true, labels: true, pictures: data.pictures > 0 };
let frame = 0, threshold = data.threshold, timer = null;
let hovered = null, chosen = null; // an instance: {side, index}
let partner = null; // what the other side has nearest to the one in focus: {side, index, iou}

// ---- the page's parts

const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children); // strings become text, never markup
  return made;
};

/** A track's category and id, as the overlays of mdqe segment name it. */
const nameOf = (track) => `${track.category} #${track.id}`;

const css = (color) => `rgb(${color.join(" ")})`;

const sides = data.sides.map((side) => {
  const canvas = element("canvas", { className: "picture", width, height });
  canvas.setAttribute("role", "img");
  const names = element("div");
  const figure = element("figure", {},
    element("figcaption", { textContent: side.name }), element("div", { className: "screen" }, canvas, names));
  figure.style.maxWidth = `calc(72vh * ${width / height})`; // so that a tall video fits too
  const heading = element("h2"), entries = side.tracks.map(entry);
  const list = element("section", {}, heading, element("ul", {}, ...entries.map((one) => element("li", {}, one))));
  find("stage").append(figure);
  find("lists").append(list);
  return {
    ...side, canvas, names, figure, heading, list, entries, shown: true,
    context: canvas.getContext("2d", { willReadFrequently: true }), decoded: {}, on: new Int32Array(width * height),
  };
});

function entry(track) {
  const swatch = element("span", { className: "swatch" });
  swatch.style.background = css(track.color);
  const strip = element("canvas", { width: Math.min(data.length, 2000), height: 1 });
  const context = strip.getContext("2d");
  context.fillStyle = css(track.color);
  context.scale(strip.width / data.length, 1);
  track.masks.forEach((mask, t) => mask && context.fillRect(t, 0, 1, 1));
  const seen = track.masks.filter(Boolean).length;
  return element("button", { type: "button", className: "entry" }, swatch,
    element("span", { className: "title", textContent: nameOf(track) }),
    element("span", { className: "score", textContent: track.score === null ? "" : track.score.toFixed(2) }),
    element("span", { className: "seen", title: `seen in ${seen} of ${data.length} frames` }, strip));
}

const visible = (side, track) => side.truth || track.score >= threshold;
const same = (one, other) => one && other && one.side === other.side && one.index === other.index;
const focus = () => [hovered, chosen].find((one) => one && visible(one.side, one.side.tracks[one.index]));

/** Whether an instance steps back for the one in focus; what the latter meets on the other side does not. */
const faint = (one) => focus() && !same(one, focus()) && !same(one, partner);

// ---- drawing

const loaded = new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve));
const pictures = new Map(); // promises of the last few

/** A frame's picture, decoded; a broken one has no natural width. Those after the first may still be loading. */
function picture(number) {
  if (!pictures.has(number)) {
    const image = new Image();
    const decoded = (number ? loaded : Promise.resolve()).then(() => {
      image.src = find(`attached-${number}`).textContent;
      return image.decode();
    });
    pictures.set(number, decoded.then(() => image, () => image));
    if (pictures.size > 24) pictures.delete(pictures.keys().next().value);
  }
  return pictures.get(number);
}

async function draw() {
  const wanted = frame, photograph = on.pictures ? await picture(wanted) : null;
  if (wanted !== frame) return; // stepped on meanwhile
  if (photograph && wanted < last) picture(wanted + 1);
  partner = focus() && nearest(focus());
  for (const side of sides) drawSide(side, photograph);
  describe();
  if (document.body.dataset.painted === undefined)
    requestAnimationFrame(() => setTimeout(() => performance.mark("painted")));
  document.body.dataset.painted = wanted;
}

function drawSide(side, photograph) {
  side.figure.hidden = !side.shown;
  if (!side.shown) return;
  const masks = masksOf(side), { context } = side;
  context.fillStyle = "#303034";
  context.fillRect(0, 0, width, height);
  if (photograph && photograph.naturalWidth) context.drawImage(photograph, 0, 0, width, height);
  side.on.fill(-1);
  const image = context.getImageData(0, 0, width, height);
  for (const one of masks) paint(image.data, side, one);
  context.putImageData(image, 0, 0);
  nameAll(side, on.labels ? masks : []);
  const listed = masks.map(({ index }) => nameOf(side.tracks[index])).join(", ");
  side.canvas.setAttribute("aria-label", `${side.name}, frame ${frame + data.firstFrame}: ${listed || "nothing"}`);
}

/** The decoded masks of the frame that is shown, of the instances that are, large ones first. */
function masksOf(side) {
  if (side.decoded.frame !== frame) side.decoded = { frame, masks: new Map() };
  const held = side.decoded.masks, found = [];
  side.tracks.forEach((track, index) => {
    if (!track.masks[frame] || !visible(side, track)) return;
    if (!held.has(index)) held.set(index, { index, ...decode(track.masks[frame], data.size) });
    found.push(held.get(index));
  });
  return found.sort((one, other) => other.area - one.area);
}

const maskOf = ({ side, index }) => masksOf(side).find((one) => one.index === index);

/** What the other side has nearest to an instance in this frame, by IoU; null where nothing meets it. */
function nearest(one) {
  const mask = maskOf(one);
  let found = null;
  for (const side of mask ? sides : [])
    for (const other of side === one.side ? [] : masksOf(side)) {
      const iou = overlap(mask, other);
      if (iou > (found ? found.iou : 0)) found = { side, index: other.index, iou };
    }
  return found;
}

/** Tint and outline a mask as the overlays of mdqe segment do; others than the one in focus are faint. */
function paint(target, side, mask) {
  const { box, pixels, index } = mask, color = side.tracks[index].color;
  const strength = faint({ side, index }) ? 0.3 : 1;
  const reach = Math.max(1, Math.round(Math.min(height, width) / 200)), depth = depths(mask);
  for (let y = box.top; y < box.bottom; y++)
    for (let x = box.left; x < box.right; x++) {
      const place = y * width + x;
      if (!pixels[place]) continue;
      side.on[place] = index;
      if (!on.masks) continue;
      const share = (depth[(y - box.top) * (box.right - box.left) + x - box.left] <= reach ? 1 : data.fill) * strength;
      for (let c = 0; c < 3; c++) target[4 * place + c] += (color[c] - target[4 * place + c]) * share;
    }
}

/** Labels over the picture, those of small instances last, each below another that it would cover. */
function nameAll(side, masks) {
  const scale = side.canvas.clientWidth / width, taken = [];
  side.names.replaceChildren(...masks.map(({ index }) => {
    const track = side.tracks[index];
    const score = track.score === null ? "" : ` ${track.score.toFixed(2)}`;
    const made = element("span", { className: "name", textContent: nameOf(track) + score });
    made.style.background = css(track.color);
    made.style.color = css(track.ink);
    if (faint({ side, index })) made.classList.add("faded");
    return made;
  }));
  const sizes = [...side.names.children].map((one) => [one.offsetWidth, one.offsetHeight]);
  masks.forEach(({ box }, i) => {
    const [wide, tall] = sizes[i];
    const left = Math.max(0, Math.min(box.left * scale, side.canvas.clientWidth - wide));
    let top = box.top * scale >= tall ? box.top * scale - tall : box.top * scale;
    const meets = (one) => left < one.right && one.left < left + wide && top < one.bottom && one.top < top + tall;
    for (let hit = taken.find(meets); hit; hit = taken.find(meets)) top = hit.bottom;
    top = Math.min(top, side.canvas.clientHeight - tall);
    taken.push({ left, right: left + wide, top, bottom: top + tall });
    side.names.children[i].style.transform = `translate(${left}px, ${top}px)`;
  });
}

// ---- words

function describe() {
  const time = data.timed ? `, ${((frame + data.firstFrame) / data.rate).toFixed(2)} s` : "";
  find("where").textContent = `${frame + data.firstFrame} of ${last + data.firstFrame}${time}`;
  find("least").textContent = threshold.toFixed(2);
  find("frame").value = frame;
  find("lists").style.setProperty("--at", last ? frame / last : 0);
  for (const side of sides) {
    const number = side.tracks.filter((track) => visible(side, track)).length;
    const less = side.truth || number === side.tracks.length ? "" : ` of ${side.tracks.length}`;
    side.heading.textContent = `${side.name}: ${number}${less}`;
    side.list.hidden = !side.shown;
    side.entries.forEach((button, index) => {
      button.parentNode.hidden = !visible(side, side.tracks[index]);
      button.classList.toggle("absent", !side.tracks[index].masks[frame]);
      button.setAttribute("aria-pressed", Boolean(same(chosen, { side, index })));
    });
  }
  find("detail").textContent = focus() ? detail(focus()) : "Point at an instance, or choose one from the list.";
}

function detail({ side, index }) {
  const track = side.tracks[index], seen = track.masks.filter(Boolean).length;
  const score = track.score === null ? "" : `, score ${track.score.toFixed(3)}`;
  const text = `${side.name} ${nameOf(track)}${score}, in ${seen} of ${data.length} frames.`;
  const mask = maskOf({ side, index });
  if (!mask) return `${text} Not in this frame.`;
  const { left, top, right, bottom } = mask.box;
  const here = `Here ${mask.area} pixels within x ${left} to ${right}, y ${top} to ${bottom}`;
  if (sides.length === 1) return `${text} ${here}.`;
  const other = partner && partner.side.tracks[partner.index];
  return other
    ? `${text} ${here}; IoU ${partner.iou.toFixed(2)} with ${partner.side.name.toLowerCase()} ${nameOf(other)}.`
    : `${text} ${here}; nothing on the other side meets it.`;
}

// ---- what people do

function go(number) {
  frame = Math.max(0, Math.min(last, number));
  draw();
}

function play(start) {
  clearInterval(timer);
  timer = start ? setInterval(() => go(frame === last ? 0 : frame + 1), 1000 / data.rate) : null;
  find("play").textContent = start ? "Pause" : "Play";
}

function step(number) {
  play(false);
  go(number);
}

const switches = []; // [letter, box]

function toggle(label, letter, checked, change) {
  const box = element("input", { type: "checkbox", checked });
  const at = label.toLowerCase().indexOf(letter);
  const text = element("span", {}, label.slice(0, at), element("u", { textContent: label[at] }), label.slice(at + 1));
  box.setAttribute("aria-keyshortcuts", letter.toUpperCase());
  box.addEventListener("change", () => { change(box.checked); draw(); });
  find("toggles").append(element("label", {}, box, " ", text));
  switches.push([letter, box]);
}

toggle("Masks", "m", true, (value) => { on.masks = value; });
toggle("Labels", "l", true, (value) => { on.labels = value; });
if (on.pictures) toggle("Frames", "f", true, (value) => { on.pictures = value; });
if (sides.length > 1)
  for (const side of sides) toggle(side.name, side.name[0].toLowerCase(), true, (value) => { side.shown = value; });

for (const side of sides) {
  const under = (event) => {
    const area = side.canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - area.left) * width / area.width);
    const y = Math.floor((event.clientY - area.top) * height / area.height);
    const index = x >= 0 && y >= 0 && x < width && y < height ? side.on[y * width + x] : -1;
    return index < 0 ? null : { side, index };
  };
  const hover = (one) => {
    if (same(one, hovered) || one === hovered) return;
    hovered = one;
    draw();
  };
  const choose = (one) => { chosen = same(one, chosen) ? null : one; draw(); };
  side.canvas.addEventListener("pointermove", (event) => hover(under(event)));
  side.canvas.addEventListener("pointerleave", () => hover(null));
  side.canvas.addEventListener("click", (event) => choose(under(event)));
  side.entries.forEach((button, index) => {
    button.addEventListener("click", () => choose({ side, index }));
    button.addEventListener("pointerenter", () => hover({ side, index }));
    button.addEventListener("pointerleave", () => hover(null));
  });
}

const keys = {
  ArrowLeft: (event) => step(frame - (event.shiftKey ? 10 : 1)),
  ArrowRight: (event) => step(frame + (event.shiftKey ? 10 : 1)),
  Home: () => step(0),
  End: () => step(last),
  Escape: () => { chosen = hovered = null; draw(); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target === find("threshold")) return;
  const [, box] = switches.find(([letter]) => letter === event.key.toLowerCase()) || [];
  if (box) box.click();
  else if (keys[event.key]) keys[event.key](event);
  else if (event.key === " " && !["BUTTON", "INPUT"].includes(event.target.tagName)) play(timer === null);
  else return;
  event.preventDefault();
});
find("back").addEventListener("click", () => step(frame - 1));
find("next").addEventListener("click", () => step(frame + 1));
find("play").addEventListener("click", () => play(timer === null));
find("frame").addEventListener("input", (event) => step(Number(event.target.value)));
find("threshold").addEventListener("input", (event) => { threshold = Number(event.target.value); draw(); });
window.addEventListener("resize", () => draw());

find("name").textContent = data.name;
find("extent").textContent = `${data.length} frames of ${width}×${height}`;
find("frame").max = last;
find("threshold").value = threshold;
find("threshold").parentNode.hidden = sides.every((side) => side.truth);
draw();
