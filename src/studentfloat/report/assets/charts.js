'use strict';
// Figures that stand as they are: each specification is drawn where it is placed.
const embedOptions = (config) => ({ config, renderer: 'svg', actions: false });
const chartConfig = JSON.parse(document.getElementById('chart-config').textContent);
const drawn = [...document.querySelectorAll('script[data-figure]')].map((source) =>
  vegaEmbed('#' + source.dataset.figure, JSON.parse(source.textContent),
            embedOptions(chartConfig)));
