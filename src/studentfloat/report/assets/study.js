'use strict';
// What follows the reader's choices: the map, one measure by row, the table, and the records.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const points = read('points');
const templates = { frontier: read('frontier-template'), forest: read('forest-template') };
const form = document.getElementById('controls');
const axis = (list, key) => list.find((each) => each.key === key) || list[0];
const number = (value) => Number(value.toPrecision(4)).toString();
const withError = ([value, error]) => number(value) + (error ? ' ± ' + number(error) : '');

// As figures.fill does in Python.
const fill = (template, slots) => {
  if (Array.isArray(template)) {
    const empty = (part) => slots[part?.data?.values]?.length === 0;
    return template.filter((part) => !empty(part)).map((part) => fill(part, slots));
  }
  if (template !== null && typeof template === 'object') {
    return Object.fromEntries(Object.entries(template).map(([k, v]) => [k, fill(v, slots)]));
  }
  return typeof template === 'string' && Object.hasOwn(slots, template) ? slots[template] : template;
};

const chosen = () => {
  const data = new FormData(form);
  // What there is one of has no boxes to tick.
  const picked = (name, all) => new Set(all.length > 1 ? data.getAll(name) : all);
  return {
    cost: axis(points.costs, data.get('cost')), measure: axis(points.measures, data.get('measure')),
    models: picked('model', points.models), methods: picked('method', points.methods),
    widths: picked('width', points.widths),
  };
};
const isShown = (point, { models, methods, widths }) =>
  models.has(point.model) && methods.has(point.method) && widths.has(point.width);

// Who cannot be told apart, as records.pareto.place has it: by the paired test where there was one,
// else by bars that overlap, and always where no error is known.
const overlap = ([a, errorA], [b, errorB], errors) =>
  Math.abs(a - b) <= errors * ((errorA || 0) + (errorB || 0));
const lossTie = (model, measure) => {
  if (measure.exact) return () => false;
  const key = (a, b) => Math.min(a, b) + ' ' + Math.max(a, b);
  const tests = new Map((points.tests[model]?.[measure.key] || [])
    .map(([a, b, significant]) => [key(a, b), !significant]));
  return (a, b) => {
    const tie = tests.get(key(a.row, b.row));
    if (tie !== undefined) return tie;
    const one = a.measures[measure.key], other = b.measures[measure.key];
    return one[1] === null || other[1] === null || overlap(one, other, 2);
  };
};

// As records.pareto.frontier, among the points that are shown.
const standings = (rows, cost, measure, model) => {
  const sign = measure.higher ? -1 : 1, tiedLoss = lossTie(model, measure);
  const costOf = (p) => p.costs[cost.key][0], lossOf = (p) => sign * p.measures[measure.key][0];
  const tiedCost = (a, b) => overlap(a.costs[cost.key], b.costs[cost.key], 1);
  const nominal = (a, b) => costOf(b) <= costOf(a) && lossOf(b) <= lossOf(a) &&
    (costOf(b) < costOf(a) || lossOf(b) < lossOf(a));
  const certain = (a, b) => {
    const cheaper = costOf(b) < costOf(a) && !tiedCost(a, b);
    const better = lossOf(b) < lossOf(a) && !tiedLoss(a, b);
    return (cheaper && (lossOf(b) <= lossOf(a) || tiedLoss(a, b))) ||
           (better && (costOf(b) <= costOf(a) || tiedCost(a, b)));
  };
  return new Map(rows.map((a) => {
    const others = rows.filter((b) => b !== a);
    const figures = others.some((b) => nominal(a, b)), sure = others.some((b) => certain(a, b));
    return [a, figures && sure ? 'dominated' : figures || sure ? 'within noise' : 'frontier'];
  }));
};

const bar = ([value, error], logarithmic) => {
  const low = value - 2 * (error || 0);
  return { low: logarithmic && value > 0 ? Math.max(low, points.floor * value) : low,
           high: value + 2 * (error || 0) };
};

// As labels.place_labels.
const OFFSETS = [[8, -5], [8, 12], [-8, -5], [-8, 12], [8, 3], [-8, 3]];
const pixels = (values, size, log) => {
  const scaled = values.map((three) => three.map((v) => log ? Math.log(v) : v));
  const low = Math.min(...scaled.flat()), span = Math.max(...scaled.flat()) - low || 1;
  return scaled.map(([v]) => 28 + (v - low) / span * (size - 56));
};
const placeLabels = (rows, logarithmic, width) => {
  const { height } = points;
  const xs = pixels(rows.map((r) => [r.cost, r.left, r.right]), width, true);
  const ys = pixels(rows.map((r) => [r.loss, r.low, r.high]), height, logarithmic)
    .map((y) => height - y);
  const taken = rows.map((_, i) => [xs[i] - 6, ys[i] - 6, xs[i] + 6, ys[i] + 6]);
  const meet = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  const first = (row) => ({ frontier: 0, 'within noise': 1 })[row.standing] ?? 2;
  rows.map((row, i) => [row, xs[i], ys[i]]).sort((a, b) => first(a[0]) - first(b[0]))
    .forEach(([row, x, y]) => {
      Object.assign(row, { label: '', dx: 0, dy: 0, align: 'left' });
      const long = 6.3 * [...row.name].length;
      for (const [dx, dy] of OFFSETS) {
        const left = dx > 0 ? x + dx : x + dx - long;
        const box = [left, y + dy - 10, left + long, y + dy + 2];
        const outside = box[0] < 0 || box[2] > width || box[1] < 0 || box[3] > height;
        if (!outside && !taken.some((other) => meet(box, other))) {
          taken.push(box);
          Object.assign(row, { label: row.name, dx, dy, align: dx > 0 ? 'left' : 'right' });
          return;
        }
      }
    });
};

// As maps.frontier_rows.
const frontierSlots = (choice, width) => {
  const { cost, measure } = choice, several = points.models.length > 1;
  const shown = points.rows.filter((p) => isShown(p, choice) &&
    cost.key in p.costs && measure.key in p.measures);
  const standing = new Map(points.models.flatMap((model) =>
    [...standings(shown.filter((p) => p.model === model), cost, measure, model)]));
  const rows = shown.map((p) => {
    const [at, spread] = p.costs[cost.key], loss = p.measures[measure.key];
    const where = standing.get(p);
    const costText = withError([at, spread]), lossText = withError(loss);
    return {
      row: p.row, model: p.model, name: p.name, series: several ? p.model : p.method,
      cost: at, left: at - spread, right: at + spread, loss: loss[0],
      ...bar(loss, measure.logarithmic), standing: where, costText, lossText,
      text: `${p.name}${several ? ' of ' + p.model : ''}: ${measure.short} ${lossText}, ` +
            `${cost.short} ${costText}, ${where}`,
    };
  });
  placeLabels(rows, measure.logarithmic, width);
  const originals = points.models.filter((m) => choice.models.has(m) &&
    measure.key in (points.originals[m] || {}));
  return {
    '@points': rows,
    '@steps': rows.filter((r) => r.standing === 'frontier')
      .sort((a, b) => a.cost - b.cost || a.loss - b.loss),
    '@originals': originals.map((m) => ({
      loss: points.originals[m][measure.key][0], label: several ? m + ', original' : 'original',
    })),
    '@series': several ? points.models : points.methods,
    '@loss scale': { nice: false, padding: 28,
                     ...(measure.logarithmic ? { type: 'log' } : { zero: false }) },
    '@description': `${measure.short} against ${cost.short}. ${points.keys}`,
    '@cost': cost.label + ', log',
    '@measure': measure.label + (measure.logarithmic ? ', log' : ''),
    '@cost name': cost.short, '@measure name': measure.short,
  };
};

// As maps.forest_rows.
const forestSlots = (model, choice) => {
  const { measure } = choice, sign = measure.higher ? -1 : 1;
  const shown = points.rows.filter((p) => p.model === model && isShown(p, choice) &&
    measure.key in p.measures);
  shown.sort((a, b) => sign * (a.measures[measure.key][0] - b.measures[measure.key][0]));
  const original = (points.originals[model] || {})[measure.key];
  return {
    '@rows': shown.map((p) => {
      const value = p.measures[measure.key], rank = p.ranks[measure.key] || 'not tested';
      return { row: p.row, name: p.name, value: value[0], ...bar(value, false), rank,
               valueText: withError(value),
               text: `${p.name}: ${measure.short} ${withError(value)}, rank ${rank}` };
    }),
    '@names': shown.map((p) => p.name), '@height': points.rowHeight * shown.length,
    '@originals': original ? [{ value: original[0] }] : [],
    '@description': `${measure.short} of ${model}, row by row, the best first. ${points.keys}`,
    '@measure': measure.label, '@measure name': measure.short,
  };
};

// Points of a drawn chart take part in the page: Tab reaches them, arrows move, Enter opens.
const readout = document.getElementById('readout');
const connect = (element, { view }) => {
  const marks = [...element.querySelectorAll('.mark-symbol.role-mark path')]
    .filter((mark) => mark.__data__?.datum?.row !== undefined)
    .sort((a, b) => a.__data__.x - b.__data__.x);
  marks.forEach((mark, index) => {
    const { datum } = mark.__data__;
    mark.setAttribute('tabindex', index ? '-1' : '0');
    mark.setAttribute('role', 'button');
    mark.setAttribute('aria-label', datum.text);
    mark.dataset.row = datum.row;
    mark.addEventListener('focus', () => { readout.textContent = datum.text; });
    mark.addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === 'Enter' || event.key === ' ') openRecord(datum.row, mark);
      else if (step) marks[(index + step + marks.length) % marks.length].focus();
      else return;
      event.preventDefault();
    });
  });
  view.addEventListener('mouseover', (event, item) => {
    if (item?.datum?.text) readout.textContent = item.datum.text;
  });
  view.addEventListener('click', (event, item) => {
    if (item?.datum?.row !== undefined) openRecord(item.datum.row, null);
  });
};

const live = async (id, spec, empty) => {
  const element = document.getElementById(id);
  if (element.liveView) element.liveView.finalize();
  element.liveView = null;
  if (empty) {
    element.textContent = 'Nothing that is chosen has both.';
    return;
  }
  const result = await vegaEmbed(element, spec, embedOptions(chartConfig));
  element.liveView = result;
  connect(element, result);
};

let turn = Promise.resolve();
const update = () => {
  const choice = chosen();
  document.querySelectorAll('[data-model]').forEach((element) => {
    element.hidden = !choice.models.has(points.models[element.dataset.model]);
  });
  let visible = 0;
  document.querySelectorAll('tr[data-point]').forEach((line) => {
    const point = points.rows[line.dataset.point];
    line.hidden = !isShown(point, choice);
    visible += isShown(point, choice);
  });
  document.getElementById('shown').textContent =
    `${visible} of ${points.rows.length} rows are shown.`;
  document.getElementById('frontier-caption').textContent =
    choice.measure.higher ? points.captions.higher : points.captions.lower;
  // One drawing after the other, so that the last choice is the last drawn.
  turn = turn.then(async () => {
    // What axes take of the width is about this much.
    const width = document.getElementById('frontier').clientWidth - 60;
    const slots = frontierSlots(choice, width);
    const jobs = [live('frontier', fill(templates.frontier, slots), !slots['@points'].length)];
    points.models.forEach((model, index) => {
      if (!choice.models.has(model)) return;
      const rows = forestSlots(model, choice);
      jobs.push(live('forest-' + index, fill(templates.forest, rows), !rows['@rows'].length));
    });
    await Promise.all(jobs);
  });
  return turn;
};

// Tables: a click on a heading sorts the rows of each group; the original stays first.
document.querySelectorAll('table.sortable th button').forEach((button) => {
  button.addEventListener('click', () => {
    const head = button.closest('th'), table = head.closest('table');
    const column = [...head.parentElement.children].indexOf(head);
    const up = head.getAttribute('aria-sort') !== 'ascending';
    table.querySelectorAll('th[aria-sort]').forEach((th) => th.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = (line) => line.children[column].dataset.value ?? line.children[column].textContent;
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)], [m, n] = [parseFloat(x), parseFloat(y)];
      if (x === '-' || y === '-') return (x === '-') - (y === '-');
      const less = Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n;
      return up ? less : -less;
    };
    for (const body of table.tBodies) {
      [...body.rows].filter((line) => line.classList.contains('sorted'))
        .sort(order).forEach((line) => body.append(line));
    }
  });
});

// Records are stored compressed, and unpacked when one is asked for.
const unpack = async (index) => {
  const packed = document.getElementById('record-' + index).textContent;
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(stream).text();
};
const make = (tag, text, parent) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};
const isRecord = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
const words = (key) => key.replaceAll('_', ' ');
const plain = (value) => value === null ? 'none' : typeof value === 'object' ? JSON.stringify(value)
  : String(value);
const show = (record, parent) => {
  const list = make('dl', undefined, parent);
  for (const [key, value] of Object.entries(record)) {
    if (value === null || value === '' || (Array.isArray(value) && !value.length)) continue;
    if (isRecord(value)) {
      make('h3', words(key), parent);
      show(value, parent);
    } else if (Array.isArray(value) && value.every(isRecord)) {
      showTable(words(key), value, parent);
    } else if (Array.isArray(value) && value.length > 24) {
      const more = make('details', undefined, parent);
      make('summary', `${words(key)} (${value.length})`, more);
      make('p', value.map(plain).join(', '), more);
    } else {
      make('dt', words(key), list);
      make('dd', Array.isArray(value) ? value.map(plain).join(', ') : plain(value), list);
    }
  }
  if (!list.children.length) list.remove();
};
const showTable = (name, rows, parent) => {
  const more = make('details', undefined, parent);
  more.open = rows.length < 8;
  make('summary', `${name} (${rows.length})`, more);
  const box = make('div', undefined, more);
  box.className = 'scroll';
  const table = make('table', undefined, box);
  const keys = [...new Set(rows.flatMap(Object.keys))].filter((key) => rows.some((row) =>
    !(row[key] === null || row[key] === '' || (Array.isArray(row[key]) && !row[key].length))));
  const head = make('tr', undefined, make('thead', undefined, table));
  keys.forEach((key) => { make('th', words(key), head).scope = 'col'; });
  const body = make('tbody', undefined, table);
  rows.forEach((row) => {
    const line = make('tr', undefined, body);
    keys.forEach((key) => {
      const value = row[key];
      const long = Array.isArray(value) && value.length > 8;
      make('td', long ? `${value.length} numbers, in the JSON` : plain(value ?? null), line);
    });
  });
};

const dialog = document.getElementById('record');
let address = null;
const openRecord = async (index, opener) => {
  const point = points.rows[index], body = dialog.querySelector('.body');
  dialog.querySelector('h2').textContent = point.name;
  body.textContent = '';
  make('p', point.model, body).className = 'faint';
  dialog.showModal();
  const json = await unpack(index);
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(new Blob([json], { type: 'application/json' }));
  const link = make('a', 'This record as JSON', make('p', undefined, body));
  link.href = address;
  link.download = `${point.model}-${point.name}`.replace(/[^\w.-]+/g, '-') + '.json';
  show(JSON.parse(json), body);
  dialog.addEventListener('close', () => opener?.focus(), { once: true });
};
dialog.querySelector('header button').addEventListener('click', () => dialog.close());
dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
document.querySelectorAll('button[data-open]').forEach((button) =>
  button.addEventListener('click', () => openRecord(Number(button.dataset.open), button)));

form.addEventListener('change', update);
form.addEventListener('submit', (event) => event.preventDefault());
const ready = Promise.all([update(), ...drawn]).then(() => {
  document.documentElement.dataset.ready = 'yes';
});
