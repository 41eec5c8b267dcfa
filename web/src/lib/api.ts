/** What the server answers, and the calls that the page makes. */

export interface Series {
  metric: string;
  tags: Record<string, string>;
  dps: Record<string, number | string | null>;
}

export interface LogRecord {
  id: string;
  time: string;
  level: string;
  body: string;
  stream: Record<string, string>;
  attrs?: Record<string, string>;
}

export interface Bucket {
  at: number;
  count: number;
  bySeverity?: Record<string, number>;
}

export interface Alert {
  labels: Record<string, string>;
  annotations?: Record<string, string>;
  startsAt: string;
  silenced: boolean;
  fingerprint: string;
}

export interface Instance {
  id: string;
  pid?: number;
  state?: string;
  started?: number | string;
}

export interface Group {
  metadata: { name: string };
  spec: { min: number; max: number };
  status?: { current?: number; desired?: number; instances?: Instance[] };
}

export interface Decision {
  group: string;
  at: number | string;
  action: string;
  from?: number;
  to?: number;
  reason: string;
}

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

async function call<T>(path: string, init?: RequestInit): Promise<T> {
  const response = await fetch(path, { credentials: 'same-origin', ...init });
  if (response.status === 401) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
  }
  const text = await response.text();
  if (!response.ok) {
    let message = text;
    try {
      const body = JSON.parse(text);
      message = body.detail ?? body.error?.message ?? body.error ?? text;
    } catch {
      // the text itself is the message
    }
    throw new ApiError(response.status, message);
  }
  return JSON.parse(text) as T;
}

/** A filter of a metric query: which label, which value, and whether a series is drawn for each of its values. */
export interface Filter {
  tagk: string;
  filter: string;
  type: 'literal_or' | 'wildcard' | 'not_literal_or';
  groupby: boolean;
}

export interface MetricQuery {
  metric: string;
  aggregator: string;
  rate?: boolean;
  filters: Filter[];
}

export function queryMetrics(start: number, end: number, step: number, queries: MetricQuery[]): Promise<Series[]> {
  const body = {
    start,
    end,
    msResolution: true,
    queries: queries.map((q) => ({
      metric: '-',
      aggregator: q.aggregator,
      downsample: `${step}s-avg`,
      rate: q.rate ?? false,
      ...(q.rate ? { rateOptions: { counter: true, dropResets: true } } : {}),
      filters: [{ tagk: 'metric', filter: q.metric, type: 'literal_or', groupby: true }, ...q.filters],
    })),
  };
  return call('/api/v2/query', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
}

export async function suggestHosts(): Promise<string[]> {
  const answer = await call<{ data: string[] }>('/api/v1/label/host/values');
  return answer.data;
}

function logParams(query: string, start: number, end: number, extra: Record<string, string>): string {
  return new URLSearchParams({ query, start: String(start), end: String(end), ...extra }).toString();
}

export async function searchLogs(query: string, start: number, end: number, limit: number): Promise<LogRecord[]> {
  const answer = await call<{ records: LogRecord[] | null }>(`/api/v2/logs/query?${logParams(query, start, end, { limit: String(limit) })}`);
  return answer.records ?? [];
}

export async function histogram(query: string, start: number, end: number, step: string): Promise<Bucket[]> {
  const answer = await call<{ buckets: Bucket[] | null }>(`/api/v2/logs/histogram?${logParams(query, start, end, { step })}`);
  return answer.buckets ?? [];
}

/** Follows live: calls back with each record; the answer ends it. */
export function tailLogs(query: string, onRecord: (r: LogRecord) => void, onState: (state: 'open' | 'lost') => void): () => void {
  const source = new EventSource(`/api/v2/logs/tail?${new URLSearchParams({ query })}`);
  source.onopen = () => onState('open');
  source.onerror = () => onState('lost');
  source.onmessage = (e) => onRecord(JSON.parse(e.data));
  return () => source.close();
}

const items = <T>(path: string) => call<{ items: T[] | null }>(path).then((a) => a.items ?? []);

export const alerts = () => items<Alert>('/api/v2/alerts');
export const groups = () => items<Group>('/api/v2/groups');
export const decisions = () => items<Decision>('/api/v2/decisions?limit=10');
export const whoami = () => call<{ subject: string; project: string }>('/api/v2/whoami');

export async function logout(): Promise<void> {
  await fetch('/logout', { method: 'POST', credentials: 'same-origin' });
  location.assign('/login');
}
