// Package app puts the parts together: it turns a configuration into clients, the token and access webhooks, the
// sync engine and the listeners of `serve`, and into one round for `plan` and `sync`. It holds no rules of its own.
package app
