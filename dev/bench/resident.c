/* resident.c - included by the benchmarks: how much memory this process has ever had resident. */

/* Bytes, from VmHWM in /proc/self/status; 0 where there is no such file. */
static double resident_peak(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    double kilobytes = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %lf", &kilobytes) == 1) break;
    if (file) fclose(file);
    return kilobytes * 1024;
}
