import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

// The server serves the result from memory under a strict content security policy: everything is a file of its own,
// nothing is inlined.
export default defineConfig({
  plugins: [svelte()],
  build: { outDir: 'dist', emptyOutDir: false, assetsInlineLimit: 0, target: 'es2022' },
  server: { proxy: { '/api': 'http://127.0.0.1:7070' } },
});
