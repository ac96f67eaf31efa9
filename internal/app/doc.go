// Package app puts the parts together: it turns a configuration into clients, the token and access webhooks, the sync engine
// and the listeners of `serve`, and into what the other commands need. Parts are made whole, each from those before it. It holds
// no rules of its own.
package app
