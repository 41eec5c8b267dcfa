// Package tsdhttp is how OpenTSDB speaks HTTP, apart from what is said: which methods an endpoint has and what it answers to others, method_override, jsonp,
// packed bodies, and errors as {"error":{"code":…,"message":…,"details":…}}. The message is OpenTSDB's where it has one, so that clients
// that look for it find it; details say in our words what would do.
//
// An Endpoint is declared once and served under /api/ and /api/v2/. OpenTSDB looks at a path's first words only and takes them in any case: Routes makes a
// route for everything else below /api/, which finds the endpoint as OpenTSDB does, or says that there is none.
package tsdhttp
