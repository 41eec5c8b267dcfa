import { expect, test } from 'vitest';
import { short, toTable } from './series';

test('series get one time axis, and null where they have no value', () => {
  const table = toTable(
    [
      { metric: 'm', tags: { host: 'b' }, dps: { '2000': 4, '1000': 'NaN' } },
      { metric: 'm', tags: { host: 'a' }, dps: { '1000': 1, '3000': 3 } },
    ],
    (s) => s.tags['host'] ?? '',
    2,
  );
  expect(table.names).toEqual(['a', 'b']);
  expect(table.columns).toEqual([[1, 2, 3], [2, null, 6], [null, 8, null]]);
});

test.each([
  [0, 1000, '0'],
  [12.34, 1000, '12.3'],
  [1536, 1024, '1.50 Ki'],
  [-2_500_000, 1000, '-2.50 M'],
] as const)('%d in base %d is %s', (value, base, want) => {
  expect(short(value, base)).toBe(want);
});
