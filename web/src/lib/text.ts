/** The words of the page, in English and Korean. */
const words = {
  en: {
    host: 'Host', range: 'Range', noHosts: 'No host has sent metrics yet. Start an agent:', load: 'Load', cpu: 'CPU', memory: 'Memory',
    network: 'Network', disk: 'Disk', logs: 'Logs', search: 'Search', query: 'Query', live: 'Live tail', noLogs: 'No log record matches in this range.',
    alerts: 'Alerts', noAlerts: 'Nothing fires.', pools: 'Pools', noPools: 'No autoscale group yet.', decisions: 'Latest decisions', since: 'since',
    silenced: 'silenced', running: 'running', wanted: 'wanted', signOut: 'Sign out', reconnecting: 'reconnecting …', records: 'records', language: '한국어',
    noData: 'no data',
  },
  ko: {
    host: '호스트', range: '기간', noHosts: '아직 지표를 보낸 호스트가 없습니다. 에이전트를 시작하세요:', load: '부하', cpu: 'CPU', memory: '메모리',
    network: '네트워크', disk: '디스크', logs: '로그', search: '검색', query: '검색어', live: '실시간', noLogs: '이 기간에 맞는 로그가 없습니다.',
    alerts: '알림', noAlerts: '발생한 알림이 없습니다.', pools: '풀', noPools: '오토스케일 그룹이 없습니다.', decisions: '최근 결정', since: '시작',
    silenced: '무음', running: '실행 중', wanted: '목표', signOut: '로그아웃', reconnecting: '다시 연결 중 …', records: '건', language: 'English',
    noData: '데이터 없음',
  },
} as const;

export type Language = keyof typeof words;
export type Words = { [K in keyof (typeof words)['en']]: string };

export function initialLanguage(): Language {
  const saved = localStorage.getItem('kemi.language');
  if (saved === 'ko' || saved === 'en') return saved;
  return navigator.language.startsWith('ko') ? 'ko' : 'en';
}

export const wordsOf = (language: Language): Words => words[language];
