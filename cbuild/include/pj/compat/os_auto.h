/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What pjproject's configure script would find out about the operating system: Linux (glibc and
 * musl) and macOS differ in a few lines only, so they are written down instead of probed for. */
#ifndef __PJ_COMPAT_OS_AUTO_H__
#define __PJ_COMPAT_OS_AUTO_H__

#if defined(__linux__)
#   define PJ_LINUX 1
#   if defined(__x86_64__)
#       define PJ_OS_NAME "x86_64-linux"
#   elif defined(__aarch64__)
#       define PJ_OS_NAME "aarch64-linux"
#   else
#       define PJ_OS_NAME "linux"
#   endif
#elif defined(__APPLE__)
#   include <TargetConditionals.h>
#   define PJ_DARWINOS 1
#   define PJ_OS_NAME "darwin"
    /* Let addresses be parsed by getaddrinfo(), which knows NAT64 networks. */
#   define PJ_GETHOSTIP_DISABLE_LOCAL_RESOLUTION 1
#   define PJ_SOCKADDR_USE_GETADDRINFO 1
#else
#   error "pjsip_py builds on Linux and macOS"
#endif

/* Headers that both have */
#define PJ_HAS_ARPA_INET_H 1
#define PJ_HAS_ASSERT_H 1
#define PJ_HAS_CTYPE_H 1
#define PJ_HAS_ERRNO_H 1
#define PJ_HAS_FCNTL_H 1
#define PJ_HAS_IFADDRS_H 1
#define PJ_HAS_INTTYPES_H 1
#define PJ_HAS_LIMITS_H 1
#define PJ_HAS_NETDB_H 1
#define PJ_HAS_NETINET_IN_H 1
#define PJ_HAS_NETINET_IN_SYSTM_H 1
#define PJ_HAS_NETINET_IP_H 1
#define PJ_HAS_NETINET_TCP_H 1
#define PJ_HAS_NET_IF_H 1
#define PJ_HAS_SEMAPHORE_H 1
#define PJ_HAS_SEMAPHORE 1
#define PJ_HAS_SETJMP_H 1
#define PJ_HAS_STDARG_H 1
#define PJ_HAS_STDDEF_H 1
#define PJ_HAS_STDINT_H 1
#define PJ_HAS_STDIO_H 1
#define PJ_HAS_STDLIB_H 1
#define PJ_HAS_STRING_H 1
#define PJ_HAS_SYS_IOCTL_H 1
#define PJ_HAS_SYS_SELECT_H 1
#define PJ_HAS_SYS_SOCKET_H 1
#define PJ_HAS_SYS_TIMEB_H 1
#define PJ_HAS_SYS_TIME_H 1
#define PJ_HAS_SYS_TYPES_H 1
#define PJ_HAS_SYS_UTSNAME_H 1
#define PJ_HAS_TIME_H 1
#define PJ_HAS_UNISTD_H 1

/* Headers and members that one of them has */
#if defined(__APPLE__)
#   define PJ_HAS_LINUX_SOCKET_H 0
#   define PJ_HAS_MALLOC_H 0
#   define PJ_HAS_SYS_FILIO_H 1
#   define PJ_HAS_SYS_SOCKIO_H 1
#   define PJ_SOCKADDR_HAS_LEN 1
#   define PJ_HAS_EXECINFO_H 1
#   define PJ_HAS_PTHREAD_SETNAME_NP 0 /* takes no thread there */
#else
#   define PJ_HAS_LINUX_SOCKET_H 1
#   define PJ_HAS_MALLOC_H 1
#   define PJ_HAS_SYS_FILIO_H 0
#   define PJ_HAS_SYS_SOCKIO_H 0
#   define PJ_SOCKADDR_HAS_LEN 0
#   if defined(__has_include)
#       if __has_include(<execinfo.h>)
#           define PJ_HAS_EXECINFO_H 1
#       endif
#   endif
#   ifndef PJ_HAS_EXECINFO_H
#       define PJ_HAS_EXECINFO_H 0 /* musl */
#   endif
#   define PJ_HAS_PTHREAD_SETNAME_NP 1
#endif
#define PJ_HAS_PTHREAD_SET_NAME_NP 0
#define PJ_HAS_PTHREAD_NP_H 0

/* Sockets */
#define PJ_SOCK_HAS_GETADDRINFO 1
#define PJ_SOCK_HAS_INET_ATON 1
#define PJ_SOCK_HAS_INET_NTOP 1
#define PJ_SOCK_HAS_INET_PTON 1
#define PJ_SOCK_HAS_IPV6_V6ONLY 1
#define PJ_SOCK_HAS_SOCKETPAIR 1
#define PJ_HAS_SOCKLEN_T 1
#define PJ_HAS_SO_ERROR 1
#define PJ_HAS_ERRNO_VAR 1
#define PJ_BLOCKING_ERROR_VAL EAGAIN
#define PJ_BLOCKING_CONNECT_ERROR_VAL EINPROGRESS
#define PJ_SELECT_NEEDS_NFDS 0

/* The I/O queue is chosen here, not in config_site.h: pj/config.h reads this file first. */
#if defined(__APPLE__)
#   define PJ_IOQUEUE_IMP PJ_IOQUEUE_IMP_KQUEUE
#else
#   define PJ_IOQUEUE_IMP PJ_IOQUEUE_IMP_EPOLL
#endif

/* Threads */
#define PJ_HAS_THREADS 1
#define PJ_HAS_PTHREAD_MUTEXATTR_SETTYPE 1
#define PJ_EMULATE_RWMUTEX 0
#define PJ_ATOMIC_VALUE_TYPE long
#define PJ_THREAD_ALLOCATE_STACK 0
#if defined(__linux__) && !defined(__GLIBC__)
/* musl's threads have 128 kB of stack, and PJSIP keeps several buffers of 4 to 8 kB on it. */
#   define PJ_THREAD_SET_STACK_SIZE 1
#   define PJ_THREAD_DEFAULT_STACK_SIZE (512 * 1024)
#else
#   define PJ_THREAD_SET_STACK_SIZE 0
#endif

/* Memory, time, text */
#define PJ_HAS_MALLOC 1
#define PJ_POOL_ALIGNMENT 8
#define PJ_HAS_HIGH_RES_TIMER 1
#define PJ_HAS_LOCALTIME_R 1
#define PJ_NATIVE_STRING_IS_UNICODE 0
#define PJ_OS_HAS_CHECK_STACK 0

#endif /* __PJ_COMPAT_OS_AUTO_H__ */
