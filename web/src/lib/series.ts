import type { Series } from './api';

/** Columns as uPlot takes them: times in seconds, then one column of values a series, with null where a series has none. */
export interface Table {
  names: string[];
  columns: [number[], ...(number | null)[][]];
}

/** Puts series on one time axis. name says what a series is called. */
export function toTable(series: Series[], name: (s: Series) => string, scale = 1): Table {
  const times = new Set<number>();
  for (const s of series) for (const t of Object.keys(s.dps)) times.add(Number(t));
  const axis = [...times].sort((a, b) => a - b);
  const named = series.map((s) => ({ s, name: name(s) })).sort((a, b) => a.name.localeCompare(b.name));
  const values = named.map(({ s }) =>
    axis.map((t) => {
      const v = s.dps[String(t)];
      return typeof v === 'number' ? v * scale : null;
    }),
  );
  return { names: named.map((n) => n.name), columns: [axis.map((t) => t / 1000), ...values] };
}

/** 1.5 k, 20 M, 3 Gi: short numbers for axes. */
export function short(v: number, base: 1000 | 1024 = 1000): string {
  const units = base === 1024 ? ['', 'Ki', 'Mi', 'Gi', 'Ti'] : ['', 'k', 'M', 'G', 'T'];
  let n = v;
  let i = 0;
  while (Math.abs(n) >= base && i < units.length - 1) {
    n /= base;
    i++;
  }
  const digits = Math.abs(n) >= 100 || Number.isInteger(n) ? 0 : Math.abs(n) >= 10 ? 1 : 2;
  return `${n.toFixed(digits)}${units[i] ? ` ${units[i]}` : ''}`;
}
