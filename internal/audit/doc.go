// Package audit keeps who had which right where, when and why: each right that somebody gained or lost, with its cause and its
// reason, for a configured time and in bounded space, in Secrets of the program's own namespace. The leader writes, everybody
// reads.
//
// Its parts, each of which uses those after it:
//
//	Writer, Reader   what others use: passes are taken in, questions are answered
//	ledger           what is to be recorded, sealed, dropped and stored next (differ: of one pass)
//	volume           what is stored, in memory: reading it, sealing blocks, the commit
//	secretWriter     the writes: of two processes that write at the same time one loses
//	book             records and who held what: in which order, with which state after them
//	tables, texts    what the numbers in records stand for
package audit
