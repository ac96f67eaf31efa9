// Package audit keeps who had which right where, when and why: each right that somebody gained or lost, with its cause and its
// reason, for a configured time and in bounded space, in Secrets of the program's own namespace. The leader writes, everybody
// reads.
package audit
