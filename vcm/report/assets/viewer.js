// The 3D viewer: one or two linked panels, each with an image of choice, the same overlays over both.
// Everything is in the page: the NiiVue library and the volumes are unpacked from it, nothing is fetched.
"use strict";
(async () => {
  const root = document.getElementById("viewer");
  const plan = JSON.parse(document.getElementById("viewer-plan").textContent);
  const say = (words) => { root.querySelector(".loading").textContent = words; };

  const bytesOf = (id) => {
    const text = atob(document.getElementById(id).textContent);
    return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  };
  const unpack = async (id) => {
    const stream = new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };
  // A NIfTI file whose voxels may be differences to the mean of those before them, as vcm.report.layers writes it.
  const volumeOf = async (n, predicted) => {
    const file = await unpack(`volume-${n}`);
    if (!predicted) return file;
    const header = new DataView(file), nx = header.getInt16(42, true), ny = header.getInt16(44, true);
    const voxels = new Uint8Array(file, header.getFloat32(108, true));
    for (let at = 0, x = 0, y = 0; at < voxels.length; at++) {
      voxels[at] += ((x ? voxels[at - 1] : 0) + (y ? voxels[at - nx] : 0) + 1) >> 1;
      if (++x === nx) { x = 0; if (++y === ny) y = 0; }
    }
    return file;
  };
  const make = (tag, attributes = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...children);
    return element;
  };

  if (!document.createElement("canvas").getContext("webgl2")) {
    say("This browser cannot draw in 3D (no WebGL 2): see the picture below.");
    return;
  }
  try {
    const library = new TextDecoder().decode(await unpack("niivue"));
    document.head.append(make("script", { textContent: library }));
    const { Niivue, NVImage, SLICE_TYPE, SHOW_RENDER, DRAG_MODE } = window.niivue;

    // Volumes, each read once; both panels share them.
    const layers = [];
    for (const [n, layer] of plan.layers.entries()) {
      const map = layer.kind === "uncertainty" ? "inferno" : layer.kind === "difference" ? "warm" : "gray";
      const [low, negative] = layer.kind === "difference" ? [layer.high / 8, "winter"] : [layer.low, ""];
      const file = await volumeOf(n, layer.predicted);
      const image = await NVImage.new(
        file, `${layer.name}.nii`, map, 1, null, low, layer.high, true, 0.02, false, false, negative,
      );
      if (layer.kind === "difference") {
        image.cal_minNeg = -layer.high;
        image.cal_maxNeg = -layer.high / 8;
      }
      const whole = image.img;
      if (layer.names.length) {
        image.setColormapLabel({
          R: layer.colours.map((c) => c[0]), G: layer.colours.map((c) => c[1]), B: layer.colours.map((c) => c[2]),
          A: layer.colours.map((_, label) => (label ? 255 : 0)),
          I: layer.names.map((_, label) => label), labels: layer.names,
        });
      }
      layers.push({ ...layer, image, whole, outlined: null, on: layer.shown, outline: layer.kind === "labels" });
    }
    const bases = layers.filter((layer) => layer.base);
    const overlays = layers.filter((layer) => !layer.base);

    // A label map's outlines: voxels with a neighbour of a lower label, so that a border is one voxel wide.
    const outlinesOf = (layer) => {
      if (layer.outlined) return layer.outlined;
      const [nx, ny, nz] = layer.image.hdr.dims.slice(1, 4);
      const from = layer.whole, to = new from.constructor(from.length);
      for (let at = 0, z = 0; z < nz; z++) for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++, at++) {
        const here = from[at];
        if (!here) continue;
        // Beyond the volume nothing is known: a label that reaches its end goes on there.
        if ((x && from[at - 1] < here) || (x < nx - 1 && from[at + 1] < here) ||
            (y && from[at - nx] < here) || (y < ny - 1 && from[at + nx] < here) ||
            (z && from[at - nx * ny] < here) || (z < nz - 1 && from[at + nx * ny] < here)) to[at] = here;
      }
      return (layer.outlined = to);
    };

    const panels = root.querySelector(".panels");
    const views = [];
    const where = root.querySelector(".where");
    const format = (value) => (Number.isInteger(value) ? String(value) : Number(value.toPrecision(3)).toString());
    // What is darker than black or brighter than white is stored as those.
    const beyond = (layer, value) => {
      const rounding = (layer.high - layer.low) / 1000;
      return layer.cut[1] && value > layer.high - rounding ? "≥ " : layer.cut[0] && value < layer.low + rounding ? "≤ " : "";
    };
    const tell = (view, location) => {
      const mm = [...location.mm].slice(0, 3);
      const parts = [`<b>${mm.map((v) => v.toFixed(1)).join(", ")}</b> mm`];
      for (const layer of [...views.map((v) => v.base).filter((b, n, all) => all.indexOf(b) === n), ...overlays]) {
        const voxel = layer.image.mm2vox(mm), dims = layer.image.dimsRAS;
        if (voxel.some((v, axis) => v < 0 || v >= dims[axis + 1])) continue; // it does not reach here
        const drawn = layer.image.img;
        layer.image.img = layer.whole; // the label, also where only outlines are drawn
        const value = layer.image.getValue(...voxel);
        layer.image.img = drawn;
        if (value === undefined || isNaN(value)) continue;
        const words = layer.names.length ? layer.names[value] : beyond(layer, value) + format(value);
        const cell = make("span", { textContent: `${layer.name}: ${words}` });
        parts.push(cell.innerHTML);
      }
      where.innerHTML = parts.join(" &nbsp; ");
    };

    // What is drawn in every panel: its image, and the overlays that are on.
    const refresh = () => {
      for (const layer of overlays) if (layer.names.length) layer.image.img = layer.outline ? outlinesOf(layer) : layer.whole;
      for (const view of views) {
        const drawn = [view.base.image, ...overlays.filter((layer) => layer.on).map((layer) => layer.image)];
        Object.assign(view.niivue, { volumes: drawn, back: drawn[0], overlays: drawn.slice(1) });
        view.niivue.updateGLVolume();
      }
    };

    for (let n = 0; n < Math.min(2, bases.length); n++) {
      const canvas = make("canvas", { tabIndex: 0 });
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Slices and 3D view of ${bases[n].name}`);
      const chosen = make("select", { ariaLabel: "Image in this panel" }, ...bases.map((b, k) => make("option", { value: k, textContent: b.name })));
      chosen.value = n;
      const panel = make("div", { className: "panel" }, canvas, chosen);
      panels.append(panel);
      const niivue = new Niivue({
        backColor: [0, 0, 0, 1], crosshairColor: [0.35, 0.62, 1, 0.75], crosshairWidth: 0.7, show3Dcrosshair: true,
        multiplanarShowRender: SHOW_RENDER.ALWAYS, multiplanarForceRender: true, isOrientationTextVisible: true,
        dragMode: DRAG_MODE.pan, dragAndDropEnabled: false, loadingText: "", logLevel: "error",
        isRadiologicalConvention: false, tileMargin: 2, scrollRequiresFocus: true,
      });
      const view = { niivue, base: bases[n], canvas };
      niivue.onLocationChange = (location) => tell(view, location);
      chosen.addEventListener("change", () => {
        view.base = bases[chosen.value];
        refresh();
        niivue.drawScene();
      });
      await niivue.attachToCanvas(canvas);
      niivue.setSliceType(SLICE_TYPE.MULTIPLANAR);
      views.push(view);
    }
    panels.style.setProperty("--panels", views.length);
    if (views.length === 2) {
      views[0].niivue.broadcastTo(views[1].niivue, { "2d": true, "3d": true });
      views[1].niivue.broadcastTo(views[0].niivue, { "2d": true, "3d": true });
    }
    refresh();

    // Controls.
    const controls = root.querySelector(".controls");
    const types = [["3 planes", SLICE_TYPE.MULTIPLANAR], ["axial", SLICE_TYPE.AXIAL], ["coronal", SLICE_TYPE.CORONAL], ["sagittal", SLICE_TYPE.SAGITTAL], ["3D", SLICE_TYPE.RENDER]];
    const buttons = types.map(([words, type]) => {
      const button = make("button", { type: "button", textContent: words, ariaPressed: String(type === SLICE_TYPE.MULTIPLANAR) });
      button.addEventListener("click", () => {
        buttons.forEach((other) => (other.ariaPressed = String(other === button)));
        views.forEach((view) => view.niivue.setSliceType(type));
      });
      return button;
    });
    controls.append(make("fieldset", { ariaLabel: "View" }, ...buttons));
    const legend = root.querySelector(".legend");
    const explain = () => {
      legend.replaceChildren();
      for (const layer of overlays.filter((o) => o.on)) {
        if (layer.names.length) {
          layer.names.slice(1, 25).forEach((name, k) => {
            const entry = make("span", { textContent: name });
            entry.style.setProperty("--colour", `rgb(${layer.colours[k + 1]})`);
            legend.append(entry);
          });
          const more = layer.names.length - 25;
          if (more > 0) legend.append(make("div", {}, `and ${more} more, named where the crosshair is`));
        } else {
          const bar = make("i");
          bar.style.background = layer.kind === "difference"
            ? "linear-gradient(90deg,#00ff80,#0000ff 45%,#000 50%,#ff7f00 55%,#ffff00)"
            : "linear-gradient(90deg,#000004,#57106e,#bc3754,#f98e09,#fcffa4)";
          legend.append(make("div", {}, `${layer.name} ${format(layer.low)}`, bar, format(layer.high)));
        }
      }
    };
    for (const layer of overlays) {
      const box = make("input", { type: "checkbox", checked: layer.on });
      box.addEventListener("change", () => { layer.on = box.checked; refresh(); explain(); });
      const slider = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: layer.opacity, ariaLabel: `Opacity of ${layer.name}` });
      const fade = () => { layer.image.opacity = Number(slider.value); };
      slider.addEventListener("input", () => { fade(); refresh(); });
      fade();
      const group = make("fieldset", { ariaLabel: layer.name }, make("label", {}, box, layer.name), slider);
      if (layer.kind === "labels") {
        const outline = make("input", { type: "checkbox", checked: true });
        outline.addEventListener("change", () => { layer.outline = outline.checked; refresh(); });
        group.append(make("label", {}, outline, "outlines only"));
      }
      controls.append(group);
    }
    explain();
    refresh();
    // Volumes of two extents have two centres: both panels begin at the place of the first.
    const first = views[0].niivue, place = [...first.frac2mm(first.scene.crosshairPos)].slice(0, 3);
    for (const view of views.slice(1)) {
      view.niivue.scene.crosshairPos = view.niivue.mm2frac(place);
      view.niivue.drawScene();
    }
    first.createOnLocationChange();
    root.querySelector(".loading").remove();
    root.dataset.ready = "true";
    window.vcmViewer = { views, layers };
  } catch (error) {
    say(`The 3D viewer could not be drawn (${error.message}): see the picture below.`);
    throw error;
  }
})();
